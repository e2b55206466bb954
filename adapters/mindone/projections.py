"""What the cells of MindSpore One's families have, and how their checkpoints have projections."""

from __future__ import annotations

import torch

from mszoo.adapters.mindone.families import Family
from mszoo.layers.weights import Expected, checkpoint_shape

import mindspore as ms  # isort: skip


def has(cell: ms.nn.Cell, name: str) -> bool:
    """Return whether a cell has a part, and not None in its place."""
    return getattr(cell, name, None) is not None


def has_bias(cell: ms.nn.Cell) -> bool:
    """Return whether a projection has a bias."""
    return isinstance(getattr(cell, "bias", None), ms.Parameter)


def first(cell: ms.nn.Cell, names: tuple[str, ...]) -> str:
    """Return the one of these names that a cell has: families call the same thing otherwise."""
    return next(name for name in names if has(cell, name))


def sizes(linear: ms.nn.Cell, family: Family) -> tuple[int, int]:
    """Return outputs and inputs of a projection."""
    rows, columns = linear.weight.shape
    return (columns, rows) if family.transposed else (rows, columns)


def own_tensors(name: str, linear: torch.nn.Module, family: Family, groups: int = 1) -> dict[str, Expected]:
    """Return, by checkpoint name, the tensors of a projection that its checkpoint has in another way.

    Args:
        name: the projection's, in the model and in the checkpoint.
        linear: the layer of vLLM's.
        family: says how.
        groups: of queries, keys and values, see :class:`mszoo.adapters.mindone.families.QKV`.
    """

    def load(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> None:
        if family.transposed and tensor.dim() == 2:
            tensor = tensor.t()
        axis = getattr(parameter, "output_dim", None)  # None for what all rows share
        if groups > 1 and axis is not None and family.qkv is not None:
            parts = tensor.unflatten(axis, (groups, 3, -1)).unbind(axis + 1)
            in_order = (parts[family.qkv.order.index(part)] for part in "qkv")
            tensor = torch.cat([part.flatten(axis, axis + 1) for part in in_order], axis)
        parameter.weight_loader(parameter, tensor)

    table = {}
    for leaf, _ in linear.named_parameters():
        shape = checkpoint_shape(linear, leaf, None)
        if family.transposed and shape is not None:
            shape = shape[::-1]
        table[f"{name}.{leaf}"] = Expected(f"{name}.{leaf}", None, shape, load=load)
    return table
