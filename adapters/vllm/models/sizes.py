"""Refuses a config whose sizes its checkpoint or the machine can't have, before memory is asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from mszoo.adapters.vllm.models.checkpoint import Checkpoint
from mszoo.registry.errors import BrokenCheckpointError

_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
)
_LARGEST = 2**31 - 1
#: Values of a weight that one value of a file may hold: two numbers of 4 bits in a byte, eight in 32 bits.
_PACKED = 16
_BYTES = 2  # of a value, at least
_HINT = "Download the model again, or mend its config.json"


def check(vllm_config: Any, found: Checkpoint | None) -> None:
    """Compare what a config says of a model's sizes with the tensors of its checkpoint, and with the memory here.

    Args:
        vllm_config: has the config.
        found: what the checkpoint's files hold; None where that isn't known.

    Raises:
        BrokenCheckpointError: there can be no such model.
    """
    fields = fields_of(vllm_config.model_config.hf_config)
    why = absurd(fields, None if found is None else found.shapes, memory())
    if why is not None:
        raise BrokenCheckpointError(vllm_config.model_config.model, why, _HINT)


def fields_of(config: Any) -> dict[str, Any]:
    """Return what a Hugging Face config says of sizes; None where it says nothing, or something for each layer."""
    config, found = config.get_text_config(), dict[str, Any]()
    for name in _FIELDS:
        try:
            found[name] = getattr(config, name, None)
        except Exception:  # transformers' own, of a field that layers have of their own
            found[name] = None
    return found


def absurd(
    fields: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None, available: int
) -> str | None:
    """Say in a clause why there can be no model of these sizes, or None.

    Args:
        fields: of the config; one that is no integer says nothing.
        shapes: of all tensors of the checkpoint; None where that isn't known.
        available: bytes of memory here.
    """
    sizes = {name: value for name, value in fields.items() if type(value) is int}
    for name, value in sizes.items():
        if value > _LARGEST:
            return f"{name} is above {_LARGEST}, which no model has"
    rows, width, layers = (sizes.get(name, 0) for name in ("vocab_size", "hidden_size", "num_hidden_layers"))
    positions = sizes.get("max_position_embeddings", 0)
    # What every decoder has, at least: embeddings, a norm for each layer, a rotation for each position.
    for what, values in (
        (f"vocab_size {rows} and hidden_size {width}", rows * width),
        (f"num_hidden_layers {layers} and hidden_size {width}", layers * width),
        (f"max_position_embeddings {positions}", positions),
    ):
        if values * _BYTES > available:
            return f"{what} take {values * _BYTES >> 30} GiB at least, and this machine has {available >> 30}"
    if shapes is None:
        return None
    if layers > len(shapes):
        return f"num_hidden_layers is {layers}, and the checkpoint has {len(shapes)} tensors"
    values = _PACKED * sum(map(math.prod, shapes.values()))
    for name in ("vocab_size", "num_hidden_layers"):
        if sizes.get(name, 0) * width > values:
            return (
                f"{name} {sizes[name]} and hidden_size {width} describe more than the checkpoint's files hold"
            )
    return None


def memory() -> int:
    """Return the bytes of memory of this machine, swap aside."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
