"""Activations: the middle of an MLP."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

from mszoo.kernels import dispatch
from mszoo.kernels.spec import SPECS
from mszoo.registry.errors import RefusalError

import mindspore as ms

#: The op of each ``hidden_act`` of Hugging Face's configs; gated, the one with ``_and_mul`` behind its name.
ACTIVATIONS: Mapping[str, str] = MappingProxyType(
    {
        "silu": "silu",
        "swish": "silu",
        "gelu": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "quick_gelu": "quick_gelu",
        "relu": "relu",
        "relu2": "relu2",
    }
)


class Activation(torch.nn.Module):
    """An activation: [T, I] -> [T, I]; gated, ``act(gate) * up`` of gate and up side by side: [T, 2 I] -> [T, I].

    Args:
        hidden_act: the activation's name in Hugging Face's configs.
        gated: whether it is gated.

    Attributes:
        op: the name of its op.

    Raises:
        RefusalError: there is no op for this activation.
    """

    def __init__(self, hidden_act: str, *, gated: bool) -> None:
        super().__init__()
        suffix = "_and_mul" if gated else ""
        known = {name: op + suffix for name, op in ACTIVATIONS.items() if op + suffix in SPECS}
        if hidden_act not in known:
            raise RefusalError(
                "config.json",
                f"hidden_act={hidden_act!r} has no kernel in mszoo{' as the gate of an MLP' if gated else ''}",
                f"Known activations: {', '.join(known)}",
            )
        self.op = known[hidden_act]
        self._act = dispatch.current().function(self.op)

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """Return the activation."""
        return self._act(x)


class GatedActivation(Activation):
    """The gated :class:`Activation` of an MLP with gate and up projection: [T, 2 I] -> [T, I]."""

    def __init__(self, hidden_act: str) -> None:
        super().__init__(hidden_act, gated=True)
