"""Root mean square norms."""

from __future__ import annotations

import torch

import mindspore as ms  # isort: skip
from mszoo.kernels import dispatch  # isort: skip
from mszoo.kernels.exchange import ParameterView  # isort: skip


class RMSNorm(torch.nn.Module):
    """Root mean square norm over the last axis, with the residual addition that precedes it fused in.

    Args:
        hidden_size: width N.
        eps: added to the mean square.
    """

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size), requires_grad=False)
        self.eps = eps
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
