"""What takes the place of the suite's layers and last norm: on CPU, where most of their ops have no
kernel, and on NPU for what vLLM's layers alone have."""

from __future__ import annotations

from typing import Any

from mszoo.adapters.described import layer_at
from mszoo.layers import RMSNorm, decoder
from mszoo.layers.positions import positions

import mindspore as ms


class TransformerLayer(decoder.DecoderLayer):
    """The suite's ``TransformerLayer``.

    Between such layers the residual stream travels beside the output, not yet added to it; the last norm adds it.

    Args:
        cell: the suite's.
        prefix: the layer's name, which ends with its number.
    """

    def __init__(self, cell: Any, *, prefix: str) -> None:
        del cell
        super().__init__(layer_at(prefix), prefix=prefix)

    def forward(  # type: ignore[override]  # the cell's own
        self, hidden_states: ms.Tensor | tuple[ms.Tensor, ms.Tensor], **_: Any
    ) -> ms.Tensor | tuple[ms.Tensor, ms.Tensor]:
        """[T, hidden], or that and the stream -> the same."""
        x, residual = hidden_states if isinstance(hidden_states, tuple) else (hidden_states, None)
        x, residual = super().forward(positions(), x, residual)
        return x if residual is None else (x, residual)


class Norm(RMSNorm):
    """The suite's ``RMSNorm``."""

    def __init__(self, cell: Any, *, prefix: str) -> None:
        super().__init__(cell.hidden_size, cell.eps)

    def forward(self, x: ms.Tensor | tuple[ms.Tensor, ms.Tensor]) -> ms.Tensor:  # type: ignore[override]
        """[T, N], or that and a stream to add before -> [T, N]."""
        return super().forward(*x)[0] if isinstance(x, tuple) else super().forward(x)
