"""Projections whose checkpoints have their weights in another way than vLLM's layers: which tensors they take."""

from __future__ import annotations

import torch

from mszoo.layers.decoder.spec import QKVLayout
from mszoo.layers.weights import Expected, checkpoint_shape


def own_tensors(
    name: str, linear: torch.nn.Module, *, conv1d: bool, layout: QKVLayout | None = None
) -> dict[str, Expected]:
    """Return, by checkpoint name, the tensors of a projection; see :class:`mszoo.layers.weights.HasOwnTensors`.

    Args:
        name: the projection's, in the model and in the checkpoint.
        linear: the layer of vLLM's.
        conv1d, layout: as of :class:`mszoo.layers.decoder.AttentionSpec`.
    """

    def load(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> None:
        if conv1d and tensor.dim() == 2:
            tensor = tensor.t()
        axis = getattr(parameter, "output_dim", None)  # None for what all rows share
        if layout is not None and axis is not None:
            tensor = _in_order(tensor, axis, layout)
        parameter.weight_loader(parameter, tensor)

    table = {}
    for leaf, _ in linear.named_parameters():
        shape = checkpoint_shape(linear, leaf, None)
        if conv1d and shape is not None:
            shape = shape[::-1]
        table[f"{name}.{leaf}"] = Expected(f"{name}.{leaf}", None, shape, load=load)
    return table


def _in_order(tensor: torch.Tensor, axis: int, layout: QKVLayout) -> torch.Tensor:
    """Return the rows with all queries first, then keys, then values."""
    parts = tensor.unflatten(axis, (layout.groups, 3, -1)).unbind(axis + 1)
    in_order = (parts[layout.order.index(part)] for part in "qkv")
    return torch.cat([part.flatten(axis, axis + 1) for part in in_order], axis)
