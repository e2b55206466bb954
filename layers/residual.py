"""The sum that adds what a layer computed to the residual stream."""

from __future__ import annotations

from collections.abc import Callable

from mszoo.kernels import dispatch
from mszoo.kernels.exchange import to_torch

import mindspore as ms


def stream_sum() -> Callable[..., ms.Tensor]:
    """Return ``(residual, x, multiplier=1.0) -> residual + multiplier * x``, which may overwrite ``residual``.

    With the ``cpu`` set torch adds, on the same memory: a sum by MindSpore in the middle of a step wakes its
    threads, which then keep the cores from vLLM's kernels, and the step takes three times as long.
    """
    return _by_torch if dispatch.current().sums_by_torch else _by_mindspore


def _by_torch(residual: ms.Tensor, x: ms.Tensor, multiplier: float = 1.0) -> ms.Tensor:
    to_torch(residual).add_(to_torch(x), alpha=multiplier)
    return residual


def _by_mindspore(residual: ms.Tensor, x: ms.Tensor, multiplier: float = 1.0) -> ms.Tensor:
    return ms.mint.add(residual, x, alpha=multiplier)
