"""What the reader of each suite says of a config, without an engine, a network or weights."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from mszoo.adapters import native
from mszoo.adapters.mindone.architectures import read as mindone_architectures
from mszoo.registry.errors import RefusalError

#: Model types that vLLM reads with a class of another's in transformers.
_VLLMS_NAMES = {"kimi_k2": "deepseek_v3"}


def config_of(config: Mapping[str, Any]) -> Any:
    """Return transformers' object of a config.json.

    Raises:
        Exception: transformers' own, where it finds that the config is none.
    """
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    fields = copy.deepcopy(dict(config))
    model_type = reference_type(config)
    try:
        kind = CONFIG_MAPPING[model_type]
    except KeyError:  # it comes with a class of its own beside the checkpoint, which reads its keys

        class Published(PreTrainedConfig):
            def __init__(self, max_position_embeddings: Any = None, **others: Any) -> None:
                if max_position_embeddings is not None:  # transformers asks for it while it makes others
                    self.max_position_embeddings = max_position_embeddings
                super().__init__(**others)

        found = Published.from_dict(fields)
        found.model_type = model_type
        return found
    return kind.from_dict(fields)


def reference_type(config: Mapping[str, Any]) -> str:
    """Return what transformers calls the model type of a config.json."""
    name: str = config["model_type"]
    return _VLLMS_NAMES.get(name, name)


#: transformers' classes of architectures that it spells otherwise.
_CLASSES = {"PhiMoEForCausalLM": "PhimoeForCausalLM"}


def class_of(architecture: str) -> Any:
    """Return transformers' class of an architecture."""
    import transformers

    return getattr(transformers, _CLASSES.get(architecture, architecture))


def answers(config: Any, architecture: str, *, length: int = 128) -> dict[str, str]:
    """Return, by suite that lists an architecture, why its reader refuses a config; "" where it takes it."""
    found: dict[str, str] = {}
    for suite, read in readers(architecture).items():
        try:
            read(config, length)
            found[suite] = ""
        except RefusalError as refusal:
            found[suite] = str(refusal)
    return found


def readers(architecture: str) -> dict[str, Callable[[Any, int], Any]]:
    """Return the readers of the suites that list an architecture; they take a config and the longest sequence."""
    found: dict[str, Callable[[Any, int], Any]] = {}
    own = {adapter.architecture: adapter.model for adapter in native.mszoo_model_adapters()}
    if architecture in own:
        module, _, name = own[architecture].partition(":")
        model = getattr(importlib.import_module(module), name)
        found["native"] = lambda config, _: model.read_config(config, f"native.{architecture}")
    from mszoo.adapters.mindformers.config import ARCHITECTURES, suite_config

    if architecture in ARCHITECTURES:
        found["mindformers"] = lambda config, length: suite_config(
            ARCHITECTURES[architecture],
            config,
            f"mindformers.{architecture}",
            dtype="float32",
            max_model_len=length,
        )
    entry = mindone_architectures().get(architecture)
    if entry is not None and not entry.refused:
        from mszoo.adapters.mindone import config as mindone
        from mszoo.adapters.mindone import importer

        fields = importer.fields_read(importer.modeling(entry.family))

        def read(config: Any, length: int) -> Any:
            who = f"mindone.{architecture}"
            reader = mindone.read(config, fields, who, causal=not entry.pooling)
            return mindone.to_v4(config, reader, length)

        found["mindone"] = read
    return found
