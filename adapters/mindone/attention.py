"""Attention of MindSpore One's models on vLLM's paged KV cache, through the suite's own registry."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from mszoo.layers import Attention

import mindspore as ms  # isort: skip
from mszoo.kernels.exchange import to_mindspore, to_torch  # isort: skip
from mszoo.registry.errors import MszooError, RefusalError  # isort: skip

#: The key in MindSpore One's registry. Three of its models take a key with "paged" for their own paged cache.
NAME = "mszoo"

#: Arguments that say nothing beyond what the layer was built with.
_KNOWN = frozenset(
    {"dropout", "is_causal", "position_ids", "cache_position", "use_cache", "output_attentions", "training"}
)


class AttentionError(MszooError):
    """A model asks for another attention than the one that was built from its config."""


class PagedAttention(Attention):
    """The attention of one of the suite's layers; it owns its part of vLLM's KV cache.

    Args:
        cell: the suite's attention.
        config: the config that the suite's model was built with.
        index: the layer's number.
        scale: multiplies the scores; None takes the cell's own.
        prefix: the layer's name, unique in the model.

    Raises:
        RefusalError: its sizes can't be told, or vLLM has no kernel for them.
    """

    def __init__(
        self, cell: ms.nn.Cell, config: Any, index: int, *, scale: float | None = None, prefix: str
    ) -> None:
        shape = shape_of(cell, config, index, scale)
        super().__init__(
            shape.heads,
            shape.size,
            shape.scale,
            shape.kv_heads,
            sliding_window=shape.window,
            softcap=shape.softcap,
            prefix=prefix,
        )
        self.scaling, self.window, self.softcap = shape.scale, shape.window, shape.softcap
        self.cell_name = prefix

    def attend(self, query: ms.Tensor, key: ms.Tensor, value: ms.Tensor) -> ms.Tensor:
        """Store keys and values, then attend: [1, H, T, D], [1, G, T, D] twice -> [1, T, H, D of values]."""
        expected = ((self.num_heads, self.head_size), (self.num_kv_heads, self.head_size))
        tokens, width = query.shape[2], value.shape[-1]
        q, k, v = (to_torch(item)[0].transpose(0, 1) for item in (query, key, value))
        if (tuple(q.shape[1:]), tuple(k.shape[1:])) != expected or width > self.head_size:
            raise AttentionError(
                self.cell_name,
                f"it computes heads of {list(q.shape[1:])} and {list(k.shape[1:])}, and its config makes them "
                f"{list(expected[0])} and {list(expected[1])}",
                "Serve the model with another implementation",
            )
        if width < self.head_size:  # vLLM's cache has one width for keys and values
            v = torch.nn.functional.pad(v, (0, self.head_size - width))
        dtype = self.dtype
        # Heads lie apart in memory: vLLM's kernels step over tokens and heads, and read each head in one piece.
        q, k, v = (item.to(dtype) for item in (q, k, v))
        if not q.stride(-1) == k.stride(-1) == v.stride(-1) == 1:
            q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        attended = super(Attention, self).forward(q, k, v).view(1, tokens, self.num_heads, self.head_size)
        return to_mindspore(attended[..., :width].contiguous() if width < self.head_size else attended)


@dataclass(frozen=True)
class Shape:
    """What vLLM's attention has to know of one of the suite's layers.

    Attributes:
        heads, kv_heads, size: query heads, key/value heads, and the size of each.
        scale: multiplies the scores.
        window: see :func:`sliding_window`.
        softcap: bounds the scores; None leaves them.
    """

    heads: int
    kv_heads: int
    size: int
    scale: float
    window: int | None
    softcap: float | None


def shape_of(cell: ms.nn.Cell, config: Any, index: int, scale: float | None = None) -> Shape:
    """Read a layer's shape off the suite's attention.

    Args:
        cell, config, index, scale: as of :class:`PagedAttention`.

    Raises:
        RefusalError: it can't be told.
    """
    heads = _first(cell, "num_heads", "num_attention_heads") or config.num_attention_heads
    kv_heads = (
        _first(cell, "num_key_value_heads", "num_kv_heads")
        or getattr(config, "num_key_value_heads", None)
        or heads
    )
    size = (
        _first(cell, "qk_head_dim", "head_dim", "head_size")
        or getattr(config, "head_dim", None)
        or config.hidden_size // heads
    )
    if not all(isinstance(value, int) and value > 0 for value in (heads, kv_heads, size)):
        raise RefusalError(type(cell).__name__, "its number and size of heads can't be told", "Report it")
    declared = getattr(config, "head_dim", None) or size
    if size != declared:
        raise RefusalError(
            type(cell).__name__,
            f"config.json says head_dim={declared}, and MindSpore One's model makes heads of {size}",
            "Serve it with another implementation",
        )
    scaling = scale or _scale(cell, size, index)
    softcap = float(_first(cell, "attn_logit_softcapping", "softcap") or 0) or None
    return Shape(heads, kv_heads, size, scaling, sliding_window(cell, config, index), softcap)


def _scale(cell: ms.nn.Cell, size: int, index: int) -> float:
    """Return what multiplies a layer's scores."""
    scale = _first(cell, "scaling", "softmax_scale")
    if scale is None:
        scale = size**-0.5 if getattr(cell, "scale_attn_weights", True) else 1.0
    # GPT-2's.
    return float(scale) / (index + 1 if getattr(cell, "scale_attn_by_inverse_layer_idx", False) else 1)


def sliding_window(cell: ms.nn.Cell, config: Any, index: int) -> int | None:
    """Return how many keys a layer sees, itself included; None where it sees all.

    The config's ``layer_types`` decide where there are any: some cells hold the window of other layers, or none.
    """
    window = getattr(config, "sliding_window", None) or None
    types = getattr(config, "layer_types", None)
    if types is not None:
        return window if types[index] == "sliding_attention" else None
    return (cell.sliding_window or None) if hasattr(cell, "sliding_window") else window


def attention_cells(network: ms.nn.Cell) -> Iterator[tuple[str, ms.nn.Cell, int]]:
    """Give path, cell and number of every attention that calls MindSpore One's registry."""
    index = 0
    for name, cell in network.cells_and_names():
        if type(cell).__name__.endswith("Attention") and hasattr(cell, "layer_idx"):
            yield name, cell, index if cell.layer_idx is None else cell.layer_idx
            index += 1


def attend(
    module: ms.nn.Cell,
    query: ms.Tensor,
    key: ms.Tensor,
    value: ms.Tensor,
    attention_mask: ms.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[ms.Tensor, None]:
    """Attend as MindSpore One's attention functions do, on vLLM's KV cache.

    Args:
        module: the suite's attention; its attribute ``mszoo_attention`` is the layer of vLLM's.
        query, key, value: as of :meth:`PagedAttention.attend`.
        attention_mask: None: causality and windows are vLLM's.
        scaling, sliding_window, softcap: have to be those that the layer was built with.
        others: must say nothing more.

    Raises:
        AttentionError: the model asks for something that the layer wasn't built for.
    """
    layer: PagedAttention = module.mszoo_attention
    asked = {
        "scaling": (scaling, layer.scaling),
        "sliding_window": (sliding_window or None, layer.window),
        "softcap": (softcap or None, layer.softcap),
    }
    for name, (wanted, built) in asked.items():
        if wanted is None and (name != "softcap" or built is None):
            continue  # a window that the model hands over in the mask is not repeated here
        if built is None or wanted is None or not math.isclose(wanted, built, rel_tol=1e-6):
            raise _refused(layer, f"{name}={wanted!r}, and was built with {built!r}")
    if attention_mask is not None:
        raise _refused(layer, "a mask of its own")
    more = [name for name, item in others.items() if item is not None and name not in _KNOWN]
    if more:
        raise _refused(layer, f"{', '.join(more)}, which vLLM's attention doesn't have")
    return layer.attend(query, key, value), None


def attend_spelled_out(cell: ms.nn.Cell, query: ms.Tensor, key: ms.Tensor, value: ms.Tensor) -> ms.Tensor:
    """Attend for a family of :mod:`mszoo.adapters.mindone.eager`: [1, H, T, D] as its own lines would give."""
    return cell.mszoo_attention.attend(query, key, value).swapaxes(1, 2)


def _refused(layer: PagedAttention, what: str) -> AttentionError:
    return AttentionError(
        layer.cell_name, f"the model asks for {what}", "Serve the model with another implementation"
    )


def _first(cell: ms.nn.Cell, *names: str) -> Any:
    """Return the first of these attributes that the cell has, or None."""
    return next((getattr(cell, name) for name in names if getattr(cell, name, None) is not None), None)
