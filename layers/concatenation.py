"""Two vectors of each token, side by side."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mszoo.kernels import dispatch
from mszoo.kernels.exchange import to_mindspore, to_torch

import mindspore as ms


def concatenation() -> Callable[[ms.Tensor, ms.Tensor], ms.Tensor]:
    """Return ``(a, b) -> [a, b]``: [T, m] and [T, n] -> [T, m + n].

    With the ``cpu`` set torch copies, for the reason of :func:`mszoo.layers.residual.stream_sum`.
    """
    return _by_torch if dispatch.current().sums_by_torch else _by_mindspore


def _by_torch(a: ms.Tensor, b: ms.Tensor) -> ms.Tensor:
    return to_mindspore(torch.cat((to_torch(a), to_torch(b)), -1))


def _by_mindspore(a: ms.Tensor, b: ms.Tensor) -> ms.Tensor:
    return ms.mint.cat((a, b), -1)
