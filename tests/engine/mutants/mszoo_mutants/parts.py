"""Ops and layers, some right and some wrong on purpose."""

from __future__ import annotations

from typing import Any

import torch  # noqa: F401  first: one OpenMP runtime then serves both frameworks

from mszoo.kernels import cpu_set, mindspore_set
from mszoo.kernels.exchange import ParameterView, to_torch

import mindspore as ms


class RMSNorm:
    """vLLM's RMSNorm, by MindSpore."""

    def __init__(self, layer: Any) -> None:
        self.layer, self.view = layer, ParameterView()

    def __call__(self, x: ms.Tensor, residual: ms.Tensor | None = None) -> Any:
        weight = self.view.of(self.layer.weight)
        if residual is None:
            return mindspore_set.rms_norm(x, weight, self.layer.variance_epsilon)
        return mindspore_set.fused_add_rms_norm(x, residual, weight, self.layer.variance_epsilon)


class SiluAndMul:
    """vLLM's SiluAndMul, by MindSpore."""

    def __init__(self, layer: Any) -> None:
        pass

    def __call__(self, x: ms.Tensor) -> ms.Tensor:
        return mindspore_set.silu_and_mul(x)


class NormThatForgetsTheSum(RMSNorm):
    """Returns the residual as it came."""

    def __call__(self, x: ms.Tensor, residual: ms.Tensor | None = None) -> Any:
        result = super().__call__(x, residual)
        return result if residual is None else (result[0], residual)


def swapped_silu_and_mul(x: ms.Tensor) -> ms.Tensor:
    """Take the second half for the gate."""
    gate, up = ms.ops.split(x, x.shape[-1] // 2, -1)
    return up * ms.ops.sigmoid(up) * gate


def greedy_gelu_and_mul(x: ms.Tensor) -> ms.Tensor:
    """Leave nothing of the input."""
    result = cpu_set.gelu_and_mul(x)
    to_torch(x).zero_()
    return result


def careless_rms_norm(x: ms.Tensor, weight: ms.Tensor, eps: float) -> ms.Tensor:
    """Compute float32 in half precision."""
    half = (value.astype(ms.float16) for value in (x, weight))
    return mindspore_set.rms_norm(*half, eps).astype(x.dtype)
