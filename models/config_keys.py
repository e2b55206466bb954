"""Answers which keys of a config.json change what Hugging Face's implementation of a model computes.

The answers stand in config_keys.json, which tests/tools/config_keys.py derives from the sources of transformers.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("config_keys.json")

#: Kinds of keys that change a result: read by a network, while weights are loaded, by the config that makes another
#: key of it, or by some of a model's heads only.
_EFFECT = ("inference", "loading", "derives", "heads")

#: For model types that transformers doesn't have: what is true of each config.json, beside what PreTrainedConfig
#: declares for every model. Their own code may read any other key.
_BOOKKEEPING = frozenset(
    {
        "auto_map",  # where the code lies
        "bos_token_id",  # of generation
        "compression_config",  # of vLLM's loader
        "eos_token_id",
        "initializer_range",  # of training
        "quantization_config",
        "tokenizer_class",
        "use_cache",  # of vLLM
    }
)


@dataclass(frozen=True)
class ConfigKey:
    """A key that the reference reads.

    Attributes:
        kind: "inference" where a network reads it, "loading" where the loading of weights does, "derives" where the
            config makes other keys of it, "heads" where only some classes of the model type read it; "training"
            where it matters for training, generation, or which outputs are returned, "checked" where it is only
            checked.
        where: the function that reads it, or one of them; with its file where that isn't the model's own.
        derives: for "derives", the keys that the config makes of it; empty where that isn't known.
        heads: for "heads", the classes that read it.
    """

    kind: str
    where: str
    derives: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()

    @property
    def has_effect(self) -> bool:
        """Whether it can change what a served model computes."""
        return self.kind in _EFFECT


def transformers_version() -> str:
    """Return the version of transformers whose sources gave the answers."""
    return str(_content()["transformers"])


def model_types() -> frozenset[str]:
    """Return the model types that the reference has: its decoders and encoders of text."""
    return frozenset(_content()["models"])


def reference_of(config: Any) -> str:
    """Return the model type whose implementation decides what a config's keys mean; "" where there is none.

    A config may call itself otherwise and have a class of transformers all the same: vLLM reads Kimi-K2's with
    DeepSeek-V3's.
    """
    if config.model_type in model_types():
        return str(config.model_type)
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if not type(config).__module__.startswith("transformers."):
        return ""
    named = [model_type for model_type, name in CONFIG_MAPPING_NAMES.items() if name == type(config).__name__]
    return next((model_type for model_type in named if model_type in model_types()), "")


def canonical(model_type: str, key: str) -> str:
    """Return the name under which the model type's config keeps a key, such as n_embd for GPT-2's hidden_size."""
    return str(_aliases(model_type).get(key, key))


def keys_read(model_type: str, architecture: str = "") -> frozenset[str]:
    """Return the keys that can change what the reference computes, under all of their names.

    Args:
        model_type: as in config.json, known to :func:`model_types`.
        architecture: a class of transformers, in any case; with it, keys that only other heads read are left out.

    Raises:
        KeyError: the reference has no such model type.
    """
    # transformers' class of Phi-MoE is spelt otherwise than the publisher's, whose name config.json has.
    wanted = architecture.lower()
    found = {
        name
        for name, key in keys(model_type).items()
        if key.has_effect
        and (not wanted or key.kind != "heads" or wanted in (head.lower() for head in key.heads))
    }
    return frozenset(found | {name for name, own in _aliases(model_type).items() if own in found})


def has_effect(model_type: str, key: str, architecture: str = "") -> bool:
    """Return whether a key of config.json can change what the reference computes.

    Of a model type that the reference doesn't have, any key can, but for a few that every config has.

    Args:
        model_type: as in config.json.
        key: its name in config.json; ``rope_parameters.factor`` for an entry of ``rope_parameters``.
        architecture: as of :func:`keys_read`.
    """
    if model_type not in model_types():
        return key not in _BOOKKEEPING and key not in _content()["bookkeeping"]
    return key in keys_read(model_type, architecture)


def rope_keys(model_type: str, rope_type: str) -> frozenset[str]:
    """Return the entries of ``rope_parameters`` that the reference reads for one rope type.

    Args:
        model_type: known to :func:`model_types`.
        rope_type: "default", or one of transformers' ``ROPE_INIT_FUNCTIONS``.

    Raises:
        KeyError: there is no such model type or rope type.
    """
    prefix = "rope_parameters."
    own = {name.removeprefix(prefix) for name in keys_read(model_type) if name.startswith(prefix)}
    return frozenset(own if rope_type == "default" else {*own, *_content()["rope_parameters"][rope_type]})


@functools.cache
def keys(model_type: str) -> Mapping[str, ConfigKey]:
    """Return all that is known of a model type's keys, by their names in its config.

    Raises:
        KeyError: the reference has no such model type.
    """
    content = _content()
    found: dict[str, ConfigKey] = {}
    for kinds in (content["every"], content["models"][model_type]):
        for kind in (*_EFFECT, "training", "checked"):
            for name, entry in kinds.get(kind, {}).items():
                where, *more = entry if isinstance(entry, list) else [entry]
                place = content["library"][where] if isinstance(where, int) else where
                found[name] = ConfigKey(
                    kind,
                    place,
                    derives=tuple(more) if kind == "derives" else (),
                    heads=tuple(more) if kind == "heads" else (),
                )
    return found


def _aliases(model_type: str) -> Mapping[str, str]:
    return _content()["models"].get(model_type, {}).get("aliases", {})  # type: ignore[no-any-return]


@functools.cache
def _content() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
