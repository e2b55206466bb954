"""Builds the suite's own inference network, without values for its parameters."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
from collections.abc import Mapping
from typing import Any

from mszoo.adapters.mindformers import importer
from mszoo.adapters.mindformers.config import Architecture, check_arrived
from mszoo.registry.errors import RefusalError

from mindspore.nn.utils import no_init_parameters


def build(architecture: Architecture, values: Mapping[str, Any]) -> Any:
    """Return the suite's network of an architecture; its ``model`` is a ``GPTModel``.

    The classes are called directly. ``AutoModel`` would read the same config, choose the same class, and need
    the suite's process-wide context, which sets MindSpore's device and mode anew.

    Args:
        architecture: the model's.
        values: :func:`mszoo.adapters.mindformers.config.suite_config`.

    Raises:
        RefusalError: the suite can't be imported, doesn't accept the values, or lost one.
    """
    who = f"{importer.SUITE} {importlib.metadata.version(importer.SUITE)}"
    with importer.surroundings():
        config_class, network_class = importer.load(architecture.config), importer.load(architecture.network)
        try:
            # It prints a table of the config.
            with no_init_parameters(), contextlib.redirect_stdout(io.StringIO()):
                network = network_class(config_class(**values))
        except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
            raise RefusalError(
                who, f"it refuses the config ({error})", "Serve the model with another implementation"
            ) from error
    check_arrived(architecture, values, network.get_gpt_transformer_config(), who)
    return network


def build_stack(architecture: Architecture, values: Mapping[str, Any]) -> Any:
    """Return the suite's ``GPTModel`` without embedding and output layer: a stack of layers and a norm.

    Args:
        architecture, values: as in :func:`build`; nothing of the stack attends on a KV cache of the suite.

    Raises:
        RefusalError: as :func:`build`.
    """
    model = build(
        architecture, {**values, "pre_process": False, "post_process": False, "tie_word_embeddings": False}
    ).model
    # Both concern attention on the suite's own KV cache, and vLLM has its own.
    model.move_lens_to_cpu = False
    model.is_prefill = True  # no look-up of cosines and sines, which nobody reads
    return model
