"""How suites whose layers give their places to mszoo's know what those are: the native suite describes decoders.

Data, and names of code; nothing heavy is imported before a model is built.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mszoo.adapters import native
from mszoo.registry import Capability, ModelAdapter
from mszoo.registry.objects import load_object

if TYPE_CHECKING:
    from mszoo.layers.decoder import DecoderForCausalLM, DecoderLayerSpec, DecoderSpec

_building: ContextVar[DecoderSpec | None] = ContextVar("mszoo_decoder", default=None)


@functools.cache
def decoders() -> Mapping[str, ModelAdapter]:
    """Return the native suite's records by architecture: whose class reads a config, and what its layers have.

    A network of a suite's own is whole on each rank: none declares stages of a pipeline.
    """
    records = native.mszoo_model_adapters()
    stages = frozenset({Capability.PIPELINE_PARALLEL})
    return {one.architecture: replace(one, capabilities=one.capabilities - stages) for one in records}


def read(architecture: str, config: Any, who: str) -> DecoderSpec:
    """Return what the decoder of a config is.

    Args:
        architecture: one of :func:`decoders`.
        config: the Hugging Face config.
        who: the adapter's name, for messages.

    Raises:
        RefusalError: naming the field that can't be honoured.
    """
    reader: type[DecoderForCausalLM] = load_object(decoders()[architecture].model)
    return reader.read_config(config, who)


@contextlib.contextmanager
def building(spec: DecoderSpec) -> Iterator[None]:
    """Make ``spec`` that of the decoder whose cells are replaced inside."""
    token = _building.set(spec)
    try:
        yield
    finally:
        _building.reset(token)


def of_network() -> DecoderSpec | None:
    """Return what the decoder is whose cells are being replaced; None of an encoder or a tower."""
    return _building.get()


def layer_at(prefix: str) -> DecoderLayerSpec:
    """Return what the layer of this name is: names of layers end with their number."""
    spec = of_network()
    assert spec is not None  # a decoder's layers are no part of anything else
    return spec.layers[int(prefix.rpartition(".")[2])]


def architecture_of(config: Any) -> str:
    """Return the architecture that a config says, whatever suite it says with it."""
    name: str = config.architectures[0].rpartition(".")[2]
    return name
