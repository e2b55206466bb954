"""What takes the place of MindSpore One's cells: vLLM's layers, and mszoo's own."""

from __future__ import annotations

from typing import Any

import torch

from mszoo.adapters.described import of_network
from mszoo.kernels import dispatch
from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers import Module, TokenEmbedding
from mszoo.layers.cells import CellStays
from mszoo.layers.decoder.build import build_norm
from mszoo.layers.model import outside_the_tree

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
        if prefix.rpartition(".")[2] != spec.norm.name:
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
