"""Gated activations: the middle of a gated MLP."""

from __future__ import annotations

import torch

import mindspore as ms  # isort: skip
from mszoo.kernels import dispatch  # isort: skip
from mszoo.registry.errors import RefusalError  # isort: skip

#: The op of each ``hidden_act`` of Hugging Face configs.
_OPS = {
    "silu": "silu_and_mul",
    "swish": "silu_and_mul",
    "gelu": "gelu_and_mul",
    "gelu_pytorch_tanh": "gelu_tanh_and_mul",
    "gelu_new": "gelu_tanh_and_mul",
}


class GatedActivation(torch.nn.Module):
    """``act(gate) * up`` for ``x`` = gate and up side by side: [T, 2 I] -> [T, I].

    Args:
        hidden_act: the activation's name in Hugging Face configs.

    Raises:
        RefusalError: there is no kernel for this activation.
    """

    def __init__(self, hidden_act: str) -> None:
        super().__init__()
        op = _OPS.get(hidden_act)
        if op is None:
            raise RefusalError(
                "config.json",
                f"hidden_act={hidden_act!r} has no kernel in mszoo",
                f"Known activations: {', '.join(_OPS)}",
            )
        self.op = op
        self._act = dispatch.current().function(op)

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """Return the gated activation."""
        return self._act(x)
