"""Projections whose checkpoints have their weights in another way than vLLM's layers: which tensors they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mszoo.layers.decoder.spec import QKVLayout
from mszoo.layers.weights import Expected, checkpoint_shape


def transposed_tensors(name: str, linear: torch.nn.Module) -> dict[str, Expected]:
    """Return, by checkpoint name, the tensors of a projection whose checkpoint has its weight as [in, out].

    Args:
        name: the projection's, in the model and in the checkpoint.
        linear: the layer of vLLM's.
    """

    def load(parameter: Any, tensor: torch.Tensor) -> None:
        parameter.weight_loader(parameter, tensor.t() if tensor.dim() == 2 else tensor)

    table = {}
    for leaf, _ in linear.named_parameters():
        shape = checkpoint_shape(linear, leaf, None)
        shape = None if shape is None else shape[::-1]
        table[f"{name}.{leaf}"] = Expected(f"{name}.{leaf}", None, shape, load=load)
    return table


def swapped_tensors(name: str, linear: torch.nn.Module) -> dict[str, Expected]:
    """Return, by checkpoint name, the tensors of gate and up projection in one, which has up first.

    Args:
        name: the projection's, in the model and in the checkpoint.
        linear: the layer of vLLM's.
    """

    def load(parameter: Any, tensor: torch.Tensor) -> None:
        axis = getattr(parameter, "output_dim", None)
        if axis is None:  # what all rows share
            parameter.weight_loader(parameter, tensor)
            return
        up, gate = tensor.chunk(2, axis)
        parameter.weight_loader(parameter, gate, 0)
        parameter.weight_loader(parameter, up, 1)

    return {
        f"{name}.{leaf}": Expected(f"{name}.{leaf}", None, checkpoint_shape(linear, leaf, None), load=load)
        for leaf, _ in linear.named_parameters()
    }


def ordered_tensors(name: str, qkv: Any, layout: QKVLayout) -> dict[str, Expected]:
    """Return, by checkpoint name, the tensors of queries, keys and values that aren't in vLLM's order.

    Args:
        name: the projection's in the model, and in the checkpoint where that has one.
        qkv: the layer of vLLM's.
        layout: the checkpoint's order.
    """
    parent, _, own = name.rpartition(".")
    heads = {"q": qkv.total_num_heads, "k": qkv.total_num_kv_heads, "v": qkv.total_num_kv_heads}
    table = {}
    for module, order in layout.modules or ((own, layout.order),):
        shares = [heads[part] // layout.groups for part in order]
        load = _loader(order, shares, layout.groups)
        for leaf, _ in qkv.named_parameters():
            shape = checkpoint_shape(qkv, leaf, None)
            if shape is not None:
                shape = (layout.groups * sum(shares) * qkv.head_size, *shape[1:])
            table[f"{parent}.{module}.{leaf}"] = Expected(f"{name}.{leaf}", None, shape, load=load)
    return table


def _loader(order: str, shares: list[int], groups: int) -> Callable[[Any, torch.Tensor], None]:
    """Return what loads a tensor of ``groups`` groups, with so many heads of each part of ``order`` in each."""

    def load(parameter: Any, tensor: torch.Tensor) -> None:
        axis = getattr(parameter, "output_dim", None)
        if axis is None:  # what all rows share
            parameter.weight_loader(parameter, tensor)
            return
        rows = tensor.shape[axis] // (groups * sum(shares))
        parts = tensor.unflatten(axis, (groups, -1)).split([share * rows for share in shares], axis + 1)
        for shard, part in zip(order, parts, strict=True):
            parameter.weight_loader(parameter, part.flatten(axis, axis + 1), shard)

    return load
