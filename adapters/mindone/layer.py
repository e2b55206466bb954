"""A decoder layer of MindSpore One, computed by mszoo's decoder layer."""

from __future__ import annotations

from typing import Any

from mszoo.adapters.described import layer_at
from mszoo.adapters.mindone.cells import with_batch, without_batch
from mszoo.adapters.mindone.families import family_of
from mszoo.layers import decoder
from mszoo.layers.model import Module
from mszoo.layers.positions import positions

import mindspore as ms


class DecoderLayer(decoder.DecoderLayer):
    """A family's decoder layer.

    Args:
        cell: the suite's.
        prefix: its name, which ends with its number.

    Raises:
        RefusalError: as :class:`mszoo.layers.decoder.DecoderLayer`.
    """

    def __init__(self, cell: ms.nn.Cell, *, prefix: str) -> None:
        # The suite's loop hands on one tensor.
        super().__init__(layer_at(prefix), prefix=prefix, carries_residual=False)
        self._returns_tuple = family_of(type(cell).__module__).returns_tuple

    def forward(  # type: ignore[override]  # the cell's own
        self, hidden_states: ms.Tensor, *_: Any, **__: Any
    ) -> ms.Tensor | tuple[ms.Tensor]:
        """Compute what the cell does: [1, T, hidden] -> the same; ``hidden_states`` may be overwritten."""
        rows = without_batch(hidden_states)
        computed = super().forward(positions(), rows)[0]
        # A compiled layer writes into what it is given: no new view is needed.
        batched = hidden_states if computed is rows else with_batch(computed)
        return (batched,) if self._returns_tuple else batched


class NoRotary(Module):
    """The place of a rotary embedding whose cosines and sines nobody reads: layers have tables of their own."""

    def __init__(self, cell: ms.nn.Cell, *, prefix: str) -> None:
        del cell, prefix
        super().__init__()

    def forward(self, *_: Any, **__: Any) -> tuple[None, None]:
        """Return nothing, twice."""
        return None, None
