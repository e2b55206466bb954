"""The residual stream between decoder layers, for draft models that read it (EAGLE-3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mszoo.kernels.exchange import to_torch

import mindspore as ms

if TYPE_CHECKING:
    from mszoo.layers.decoder.layer import DecoderLayer


class HiddenStates:
    """Copies the residual stream where a draft model reads it, at each step.

    Args:
        layers: the decoder's, in order.
        indices: where: 0 is before the first layer, ``n`` is after ``n`` layers.
    """

    def __init__(self, layers: Sequence[DecoderLayer], indices: Sequence[int]) -> None:
        self._taken: list[torch.Tensor] = []
        wanted = set(indices)
        for index, layer in enumerate(layers):
            layer.tap_before = self._take if index == 0 and 0 in wanted else None
            layer.tap_after = self._take if index + 1 in wanted else None

    def take(self) -> list[torch.Tensor]:
        """Return those of the step that was computed, in the layers' order: [T, hidden] each."""
        taken, self._taken = self._taken, []
        return taken

    def _take(self, x: ms.Tensor, residual: ms.Tensor | None) -> None:
        # A copy: the next layer may overwrite both.
        stream = to_torch(x)
        self._taken.append(stream.clone() if residual is None else stream + to_torch(residual))
