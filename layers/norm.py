"""The norms of decoder layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from mszoo.kernels import dispatch
from mszoo.kernels.exchange import ParameterView, to_mindspore, to_torch
from mszoo.layers.seam import get_tensor_model_parallel_rank, tensor_model_parallel_all_reduce
from mszoo.layers.weights import Expected, load_part_of_rank_along

import mindspore as ms


class RMSNorm(torch.nn.Module):
    """Root mean square norm over the last axis, with the residual addition that precedes it fused in.

    Args:
        hidden_size: width N.
        eps: added to the mean square.
    """

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size), requires_grad=False)
        self.width, self.eps = hidden_size, eps
        self._view = ParameterView()
        self._rms_norm = dispatch.current().function("rms_norm")
        self._fused_add_rms_norm = dispatch.current().function("fused_add_rms_norm")

    def forward(
        self, x: ms.Tensor, residual: ms.Tensor | None = None
    ) -> ms.Tensor | tuple[ms.Tensor, ms.Tensor]:
        """Return ``norm(x)``, or ``(norm(x + residual), x + residual)``: [T, N] each.

        With a residual, both inputs may be overwritten.
        """
        weight = self._view.of(self.weight)
        if residual is None:
            return self._rms_norm(x, weight, self.eps)
        return self._fused_add_rms_norm(x, residual, weight, self.eps)


class RMSNormOfRanks(torch.nn.Module):
    """Root mean square norm, in float32, of rows of which each rank has a part, by its part of the weight.

    Args:
        hidden_size: width N of a part.
        eps: added to the mean square.
        parts: how many make a row.
        copies: how many ranks, one after the other, have the same part.
    """

    def __init__(self, hidden_size: int, eps: float, parts: int, copies: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size), requires_grad=False)
        self.width, self.eps = hidden_size, eps
        self._parts, self._copies = parts, copies
        self._view, self._by_torch = ParameterView(), dispatch.current().sums_by_torch

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """Return ``norm(x)``: [T, N]."""
        exact = to_torch(x).float() if self._by_torch else x.float()
        squares = (exact * exact).sum(-1, keepdim=True)
        summed = tensor_model_parallel_all_reduce(squares if self._by_torch else to_torch(squares))
        scale = (summed / (self._copies * self._parts * self.width) + self.eps).rsqrt()
        if self._by_torch:
            return to_mindspore((exact * scale * self.weight).to(to_torch(x).dtype))
        return (exact * to_mindspore(scale) * self._view.of(self.weight)).to(x.dtype)

    def checkpoint_tensors(self, name: str) -> dict[str, Expected]:
        """See :class:`mszoo.layers.weights.HasOwnTensors`: the weight is a part of the checkpoint's."""
        load = load_part_of_rank_along(0, self._copies)
        weight = f"{name}.weight"
        return {weight: Expected(weight, None, (self._parts * self.width,), load=load)}


class GemmaRMSNorm(torch.nn.Module):
    """The root mean square norm of Gemma, ``(1 + weight) * x / sqrt(mean(x^2) + eps)``, in float32.

    Args:
        hidden_size: width N.
        eps: added to the mean square.
    """

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(hidden_size), requires_grad=False)
        self.width, self.eps = hidden_size, eps
        self._rms_norm = dispatch.current().function("rms_norm")

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """Return ``norm(x)``: [T, N]."""
        given = to_torch(x)
        normed = self._rms_norm(
            to_mindspore(given.float()), to_mindspore(self.weight.float() + 1.0), self.eps
        )
        return to_mindspore(to_torch(normed).to(given.dtype))


class LayerNorm(torch.nn.Module):
    """Norm of mean and variance over the last axis.

    Args:
        hidden_size: width N.
        eps: added to the variance.
        weight: whether it has one.
        bias: whether it has one.
        offset: added to the weight (1 for Nemotron's).
    """

    def __init__(
        self, hidden_size: int, eps: float, *, weight: bool = True, bias: bool = True, offset: float = 0.0
    ) -> None:
        super().__init__()
        self.width, self.eps, self.offset = hidden_size, eps, offset
        self.weight: torch.nn.Parameter | None = None
        self.bias: torch.nn.Parameter | None = None
        if weight:
            self.weight = torch.nn.Parameter(torch.ones(hidden_size), requires_grad=False)
        if bias:
            self.bias = torch.nn.Parameter(torch.zeros(hidden_size), requires_grad=False)
        self._layer_norm = dispatch.current().function("layer_norm")
        self._views = ParameterView(), ParameterView()

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """Return ``norm(x)``: [T, N]."""
        weight_view, bias_view = self._views
        weight, bias = self.weight, None if self.bias is None else bias_view.of(self.bias)
        if weight is None:
            return self._layer_norm(x, None, bias, self.eps)
        scale = to_mindspore(weight + self.offset) if self.offset else weight_view.of(weight)
        return self._layer_norm(x, scale, bias, self.eps)

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``norm(x)`` of a tensor of torch's, by torch: [..., N]."""
        return functional.layer_norm(x, (self.width,), self.scale(), self.bias, self.eps)

    def scale(self) -> torch.Tensor | None:
        """Return what multiplies: [N], or None."""
        return self.weight + self.offset if self.weight is not None and self.offset else self.weight


class HeadNorm(torch.nn.Module):
    """Norm of mean and variance over each head, by a weight of its own, in tensors of a rank's heads: [T, H D].

    Args:
        num_heads, head_size: H and D.
        eps: added to the variance.
        listed: the checkpoint has a tensor [D] for each head, not one [H, D].
        parts: how many times as many heads all ranks have.
        copies: how many ranks, one after the other, have the same heads.
    """

    def __init__(
        self, num_heads: int, head_size: int, eps: float, *, listed: bool, parts: int = 1, copies: int = 1
    ) -> None:
        super().__init__()
        self.width, self.eps, self._shape = num_heads * head_size, eps, (num_heads, head_size)
        self.weight = torch.nn.Parameter(torch.ones(num_heads, head_size), requires_grad=False)
        self._listed, self._parts, self._copies = listed, parts, copies
        self._by_torch = dispatch.current().sums_by_torch
        self._layer_norm = dispatch.current().function("layer_norm")

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """Return ``norm(x)``: [T, H D]."""
        rows = to_mindspore(to_torch(x).view(-1, self._shape[1]))
        normed = self._layer_norm(rows, None, None, self.eps)
        if self._by_torch:
            scaled = to_torch(normed).view(-1, *self._shape) * self.weight
            return to_mindspore(scaled.view(-1, self.width))
        return (normed.view(-1, *self._shape) * to_mindspore(self.weight)).view(-1, self.width)

    def checkpoint_tensors(self, name: str) -> dict[str, Expected]:
        """See :class:`mszoo.layers.weights.HasOwnTensors`: the weight is a part of the checkpoint's."""
        weight, (heads, size) = f"{name}.weight", self._shape
        if not self._listed:
            load = load_part_of_rank_along(0, self._copies)
            return {weight: Expected(weight, None, (self._parts * heads, size), load=load)}
        return {
            f"{name}.norms.{head}.weight": Expected(weight, None, (size,), load=self._load_head(head))
            for head in range(self._parts * heads)
        }

    def _load_head(self, head: int) -> Callable[[torch.nn.Parameter, torch.Tensor], None]:
        """Return what loads the weight of a head of all ranks', which may be another rank's."""
        heads = self._shape[0]

        def load(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> None:
            if head // heads == get_tensor_model_parallel_rank() // self._copies:
                parameter.data[head % heads].copy_(tensor)

        return load


#: The norms that a decoder layer may have.
Norm = RMSNorm | RMSNormOfRanks | GemmaRMSNorm | LayerNorm | HeadNorm


class QKNorm:
    """The norms of query and key heads, applied inside the fused ``qkv``; the norms are modules of somebody else.

    Args:
        q_norm, k_norm: own the weights [D].
        num_heads, num_kv_heads: query and key/value heads on this rank.
    """

    def __init__(self, q_norm: RMSNorm, k_norm: RMSNorm, num_heads: int, num_kv_heads: int) -> None:
        self._norms = q_norm, k_norm
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self._views = ParameterView(), ParameterView()
        self._qk_norm = dispatch.current().function("qk_norm")

    def __call__(self, qkv: ms.Tensor) -> ms.Tensor:
        """Return ``qkv`` [T, (H + 2 G) D] with normed queries and keys; the input may be overwritten."""
        (q_norm, k_norm), (q_view, k_view) = self._norms, self._views
        return self._qk_norm(
            qkv,
            q_view.of(q_norm.weight),
            k_view.of(k_norm.weight),
            q_norm.eps,
            self.num_heads,
            self.num_kv_heads,
        )
