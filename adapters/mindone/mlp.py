"""MLPs of MindSpore One's families, computed by mszoo's layers."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mszoo.adapters.mindone.cells import activation
from mszoo.adapters.mindone.families import Family
from mszoo.adapters.mindone.projections import first, has, has_bias, own_tensors, sizes
from mszoo.layers import GatedActivation, Module, apply_linear, column_linear, gate_up_linear, row_linear
from mszoo.layers.cells import CellStays
from mszoo.layers.weights import Expected

import mindspore as ms  # isort: skip

#: Activations as :class:`mszoo.layers.Parts` names them, by class of the suite's.
_ACTIVATIONS = {
    "FastGELUActivation": "gelu_tanh",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "NewGELUActivation": "gelu_tanh",
    "ReLU": "relu",
    "ReLUSquaredActivation": "relu2",
    "SiLU": "silu",
    "SiLUActivation": "silu",
}
#: Those of a gated MLP, and what Hugging Face's configs call them.
_GATED = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}

# What families call the same thing.
_UP_AND_DOWN = (
    ("up_proj", "down_proj"),
    ("c_fc", "c_proj"),
    ("fc1", "fc2"),
    ("input_linear", "output_linear"),
    ("dense_h_to_4h", "dense_4h_to_h"),
    ("fc_in", "fc_out"),
)
_ACTIVATION = ("act_fn", "activation_fn", "act", "activation")


class MLP(Module):
    """A family's MLP: two products with an activation between, or the gated one.

    Args:
        cell: the suite's MLP.
        family: its family.
        prefix: its name.
        owner: the module that gets its projections; None for itself.

    Raises:
        CellStays: there is no gated op for its activation.
    """

    def __init__(
        self, cell: ms.nn.Cell, family: Family, prefix: str, owner: torch.nn.Module | None = None
    ) -> None:
        super().__init__()
        self._family = family
        # Past the module tree: vLLM may replace projections there (LoRA), and finds them once.
        self.__dict__["_owner"] = owner or self
        act = getattr(cell, first(cell, _ACTIVATION))
        kind = _kind_of(act)
        gate = GatedActivation(gate_of(act, prefix)) if family.gated else None
        #: What lies between the products; a name where there is no gate.
        self.activation: GatedActivation | str = gate or kind
        self.__dict__["_act"] = gate or activation(act)
        up_name, down_name = next(pair for pair in _UP_AND_DOWN if has(cell, pair[1]))
        up, down = getattr(cell, up_name, None), getattr(cell, down_name)
        hidden_size, width = sizes(down, family)
        make_up: Callable[..., torch.nn.Module] = column_linear
        if family.gated:
            make_up = gate_up_linear
            if up is None or up.weight.shape[0] == width:  # not gate and up in one
                up_name, up = "gate_up_proj", getattr(cell, "gate_up_proj", up)
        self._names = up_name, down_name
        up_projection = make_up(hidden_size, width, bias=has_bias(up), prefix=f"{prefix}.{up_name}")
        down_projection = row_linear(width, hidden_size, bias=has_bias(down), prefix=f"{prefix}.{down_name}")
        self._owner.add_module(up_name, up_projection)
        self._owner.add_module(down_name, down_projection)

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """[T, hidden] -> [T, hidden]."""
        return apply_linear(self.down, self._act(apply_linear(self.up, x)))

    def checkpoint_tensors(self, name: str) -> dict[str, Expected]:
        """See :class:`mszoo.layers.weights.HasOwnTensors`."""
        if not self._family.transposed:
            return {}
        up_name, down_name = self._names
        up = own_tensors(f"{name}.{up_name}", self.up, self._family)
        return up | own_tensors(f"{name}.{down_name}", self.down, self._family)

    @property
    def up(self) -> torch.nn.Module:
        """The first product; of a gated MLP, gate and up."""
        return self._projection(0)

    @property
    def down(self) -> torch.nn.Module:
        """The second product."""
        return self._projection(1)

    def _projection(self, which: int) -> torch.nn.Module:
        owner: torch.nn.Module = self._owner
        return owner.get_submodule(self._names[which])


def gate_of(act: ms.nn.Cell, where: str) -> str:
    """Return a gate's activation, as Hugging Face's configs call it.

    Raises:
        CellStays: there is no gated op for it.
    """
    kind = _kind_of(act)
    if kind not in _GATED:
        raise CellStays(f"{where} has {kind} for its gate")
    return _GATED[kind]


def _kind_of(act: ms.nn.Cell) -> str:
    return _ACTIVATIONS.get(type(act).__name__, type(act).__name__)
