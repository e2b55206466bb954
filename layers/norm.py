"""The norms of decoder layers."""

from __future__ import annotations

import torch
from torch.nn import functional

import mindspore as ms  # isort: skip
from mszoo.kernels import dispatch  # isort: skip
from mszoo.kernels.exchange import ParameterView, to_mindspore, to_torch  # isort: skip


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
        self._by_mindspore = dispatch.current().base == "mindspore"

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """Return ``norm(x)``: [T, N]."""
        if not self._by_mindspore:
            return to_mindspore(self.of(to_torch(x)))
        # MindSpore's CPU backend has no layer_norm.
        centred = x - ms.ops.mean(x, -1, True)
        normed = centred * ms.ops.rsqrt(ms.ops.mean(centred * centred, -1, True) + self.eps)
        weight = self.scale()
        if weight is not None:
            normed = normed * to_mindspore(weight)
        return normed if self.bias is None else normed + to_mindspore(self.bias)

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``norm(x)`` of a tensor of torch's, by torch: [..., N]."""
        return functional.layer_norm(x, (self.width,), self.scale(), self.bias, self.eps)

    def scale(self) -> torch.Tensor | None:
        """Return what multiplies: [N], or None."""
        return self.weight + self.offset if self.weight is not None and self.offset else self.weight


#: The norms that a compiled layer knows.
Norm = RMSNorm | GemmaRMSNorm | LayerNorm


class QKNorm(torch.nn.Module):
    """The norms of query and key heads, applied inside the fused ``qkv``.

    Args:
        q_norm: the module that owns the query norm's weight [D].
        k_norm: the module that owns the key norm's weight [D].
        num_heads: query heads on this rank.
        num_kv_heads: key/value heads on this rank.
    """

    def __init__(self, q_norm: RMSNorm, k_norm: RMSNorm, num_heads: int, num_kv_heads: int) -> None:
        super().__init__()
        # Kept out of the module tree: the checkpoint names the norms, not this pair.
        self.__dict__["_norms"] = (q_norm, k_norm)
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self._views = ParameterView(), ParameterView()
        self._qk_norm = dispatch.current().function("qk_norm")

    def forward(self, qkv: ms.Tensor) -> ms.Tensor:
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
