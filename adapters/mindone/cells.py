"""What takes the place of MindSpore One's cells: vLLM's layers, and mszoo's own."""

from __future__ import annotations

import math
from typing import Any

import torch

import numpy as np

from mszoo.adapters.described import of_network
from mszoo.kernels import dispatch
from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers import LayerNorm, Module, TokenEmbedding
from mszoo.layers.cells import CellStays
from mszoo.layers.decoder.build import build_norm
from mszoo.layers.linear import WholeLinear
from mszoo.layers.model import outside_the_tree
from mszoo.layers.weights import Expected

import mindspore as ms


class Embedded(ms.Tensor):  # type: ignore[misc]
    """What an embedding gives: networks scale it, or add positions to it, and torch does that on the same memory.

    A product or a sum by MindSpore in a step would wake its threads, which then keep the cores from vLLM's kernels.
    """

    def __add__(self, other: Any) -> ms.Tensor:
        return to_mindspore(to_torch(self) + _to_torch(other))

    def __mul__(self, other: Any) -> ms.Tensor:
        return to_mindspore(to_torch(self) * _to_torch(other))


def _to_torch(value: Any) -> Any:
    return to_torch(value) if isinstance(value, ms.Tensor) else value


class Embedding(TokenEmbedding):
    """Rows of a table, for ``nn.Embedding`` and ``mint.nn.Embedding`` of MindSpore: [...] -> [..., width]."""

    def __init__(self, cell: ms.nn.Cell, *, prefix: str) -> None:
        table = cell.embedding_table if isinstance(cell, ms.nn.Embedding) else cell.weight
        rows, columns = table.shape
        super().__init__(rows, columns, prefix=prefix)
        self._by_torch = dispatch.current().sums_by_torch

    def forward(self, input: ms.Tensor | torch.Tensor) -> ms.Tensor | torch.Tensor:
        """Look up."""
        found = super().forward(input)
        if self._by_torch and not isinstance(found, torch.Tensor):
            found.__class__ = Embedded  # MindSpore makes no tensor of another class on memory that is there
        return found


class ScaledEmbedding(Embedding):
    """Rows of a table, scaled, for Gemma 3: [...] -> [..., width]."""

    def __init__(self, cell: ms.nn.Cell, *, prefix: str) -> None:
        super().__init__(cell, prefix=prefix)
        # Rounded as the model's dtype rounds it. A number: what vLLM doesn't find among a model's tensors, it
        # doesn't bring back after a sleep.
        self.scale = float(torch.tensor(float(cell.embed_scale), dtype=self.weight.dtype))

    def forward(self, input: ms.Tensor) -> ms.Tensor:
        """Look up and scale."""
        return to_mindspore(to_torch(super().forward(input)) * self.scale)


class OffsetPositions(Embedding):
    """Rows of a table for positions that begin at an offset, for OPT: position_ids [...] -> [..., width]."""

    def __init__(self, cell: ms.nn.Cell, *, prefix: str) -> None:
        super().__init__(cell, prefix=prefix)
        self.offset = int(cell.offset)

    def forward(self, *_: Any, position_ids: ms.Tensor) -> ms.Tensor:  # type: ignore[override]  # the cell's own
        """Look up."""
        return super().forward(to_mindspore(to_torch(position_ids) + self.offset))


class RowNorm(Module):
    """The norm behind a decoder's last layer, on tensors of any rank: [..., N] -> [..., N].

    Raises:
        CellStays: it is another norm.
    """

    def __init__(self, cell: ms.nn.Cell, *, prefix: str) -> None:
        del cell
        spec = of_network()
        if spec is None or prefix.rpartition(".")[2] != spec.norm.name:
            raise CellStays(f"{prefix} isn't the last norm")
        super().__init__()
        norm = build_norm(spec.norm, spec.hidden_size)
        outside_the_tree(self, _norm=norm)
        for name, parameter in norm.named_parameters():
            self.register_parameter(name, parameter)

    def forward(self, hidden_states: ms.Tensor) -> ms.Tensor:
        """Normalise."""
        x = to_torch(hidden_states)
        rows = to_torch(self._norm(to_mindspore(x.reshape(-1, x.shape[-1]))))
        return to_mindspore(rows.view(x.shape))


def layer_norm(cell: ms.nn.Cell, *, prefix: str) -> Module:
    """Return what takes the place of MindSpore's layer norms: a decoder's last one, or any of a tower's.

    Raises:
        CellStays: it is another one of a decoder's.
    """
    return TowerNorm(cell) if of_network() is None else RowNorm(cell, prefix=prefix)


class TowerNorm(Module):
    """Norm of mean and variance by torch, on tensors of any rank: [..., N] -> [..., N]."""

    def __init__(self, cell: ms.nn.Cell) -> None:
        super().__init__()
        eps = cell.epsilon if isinstance(cell, ms.nn.LayerNorm) else cell.eps
        norm = LayerNorm(int(cell.normalized_shape[0]), float(eps))
        outside_the_tree(self, _norm=norm)
        for name, parameter in norm.named_parameters():
            self.register_parameter(name, parameter)

    def forward(self, input: ms.Tensor) -> ms.Tensor:
        """Normalise."""
        return to_mindspore(self._norm.of(to_torch(input)))


class Patches(WholeLinear):
    """A convolution whose kernels lie side by side, one product: [B, channels, sides] -> [B, out, counts].

    Raises:
        CellStays: it is another convolution.
    """

    def __init__(self, cell: ms.nn.Cell, *, prefix: str) -> None:
        rows, *kernel = cell.weight.shape
        sides = tuple(kernel[1:])
        if cell.groups != 1 or not _all_are(cell.padding, 0) or not _all_are(cell.dilation, 1):
            raise CellStays(f"{prefix} isn't a product of patches")
        if (cell.stride,) * len(sides) != sides and tuple(np.atleast_1d(cell.stride)) != sides:
            raise CellStays(f"{prefix} isn't a product of patches")
        super().__init__(math.prod(kernel), rows, bias=cell.bias is not None, prefix=prefix)
        self._kernel = tuple(kernel)

    def forward(self, input: ms.Tensor) -> ms.Tensor:
        """Return the products; what fills no patch is left out."""
        x, axes = to_torch(input), len(self._kernel) - 1
        for axis, side in enumerate(self._kernel[1:], 2):
            x = x.unfold(axis, side, side)
        counts = x.shape[2 : 2 + axes]
        # [B, counts, channels, sides]
        x = x.permute(0, *range(2, 2 + axes), 1, *range(2 + axes, 2 + 2 * axes))
        found = to_torch(super().forward(to_mindspore(x.reshape(-1, self.input_size))))
        return to_mindspore(found.view(len(x), *counts, -1).movedim(-1, 1).contiguous())

    def checkpoint_tensors(self, name: str) -> dict[str, Expected]:
        """See :class:`mszoo.layers.weights.HasOwnTensors`."""
        weight = f"{name}.weight"
        return {weight: Expected(weight, None, (self.output_size, *self._kernel), load=_load_flat)}


def _all_are(value: Any, number: int) -> bool:
    return bool((np.asarray(value) == number).all())


def _load_flat(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> None:
    parameter.weight_loader(parameter, tensor.flatten(1))  # type: ignore[operator]


def with_batch(tensor: ms.Tensor) -> ms.Tensor:
    """Return a view with a first axis of size 1, and remember the tensor for :func:`without_batch`."""
    batched = to_mindspore(to_torch(tensor)[None])
    batched._mszoo_without_batch = tensor
    return batched


def without_batch(tensor: ms.Tensor) -> ms.Tensor:
    """Return a view without the first axis, of size 1; it is made once for all layers of a step."""
    view = getattr(tensor, "_mszoo_without_batch", None)
    if view is None:
        view = tensor._mszoo_without_batch = to_mindspore(to_torch(tensor)[0])
    return view
