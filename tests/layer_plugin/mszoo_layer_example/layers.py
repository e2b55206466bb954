"""The layers: each is given vLLM's layer, which owns the weights, and computes it with MindSpore's own ops."""

from typing import Any

from mszoo.kernels.exchange import ParameterView
from mszoo.registry.errors import RefusalError

import mindspore as ms
from mindspore import ops

_mean = ops.ReduceMean(keep_dims=True)


class RMSNorm:
    """Root mean square norm, with the residual addition that precedes it."""

    def __init__(self, layer: Any) -> None:
        if layer.variance_size_override is not None or not layer.has_weight:
            what = "norms without a weight, or of a part of the width, are not supported"
            raise RefusalError("mszoo_layer_example", what, "Leave them to vLLM")
        self.layer, self.eps, self.view = layer, layer.variance_epsilon, ParameterView()

    def __call__(self, x: ms.Tensor, residual: ms.Tensor | None = None) -> Any:
        if residual is not None:
            x = x + residual
        normed = x * ops.rsqrt(_mean(ops.square(x), -1) + self.eps) * self.view.of(self.layer.weight)
        return normed if residual is None else (normed, x)


class SiluAndMul:
    """Sigmoid linear unit of the first half of the last axis, times the second half."""

    def __init__(self, layer: Any) -> None:
        pass

    def __call__(self, x: ms.Tensor) -> ms.Tensor:
        gate, up = ops.split(x, x.shape[-1] // 2, -1)
        return gate * ops.sigmoid(gate) * up
