"""MLPs and mixtures of experts as a spec describes them, op by op."""

from __future__ import annotations

import torch

from mszoo.kernels.exchange import to_torch
from mszoo.layers.activation import Activation
from mszoo.layers.decoder.compiled_mixture import CompiledMixture
from mszoo.layers.decoder.projections import swapped_tensors, transposed_tensors
from mszoo.layers.decoder.spec import MLPSpec, MoESpec
from mszoo.layers.linear import apply_linear, column_linear, gate_up_linear, row_linear
from mszoo.layers.methods import quant_config
from mszoo.layers.model import Module, add_part, outside_the_tree
from mszoo.layers.moe import Experts, TopKRouter
from mszoo.layers.seam import ReplicatedLinear
from mszoo.layers.weights import Expected

import mindspore as ms


class MLP(Module):
    """Two projections with an activation between.

    Args:
        spec: what it is.
        hidden_size: width of its input and output.
        prefix: its name, unique in the model.
        owner: the module that gets the projections, where they are the layer's own; None for itself.

    Raises:
        RefusalError: there is no op for its activation.
    """

    def __init__(
        self, spec: MLPSpec, hidden_size: int, *, prefix: str, owner: torch.nn.Module | None = None
    ) -> None:
        super().__init__()
        self.spec = spec
        outside_the_tree(self, _owner=owner or self)
        make_up = gate_up_linear if spec.gated else column_linear
        up = make_up(hidden_size, spec.intermediate_size, bias=spec.bias, prefix=f"{prefix}.{spec.up_name}")
        down_bias = spec.bias if spec.down_bias is None else spec.down_bias
        down = row_linear(
            spec.intermediate_size, hidden_size, bias=down_bias, prefix=f"{prefix}.{spec.down_name}"
        )
        add_part(self._owner, spec.up_name, up)
        self.act_fn = Activation(spec.hidden_act, gated=spec.gated)
        add_part(self._owner, spec.down_name, down)

    @property
    def up_projection(self) -> torch.nn.Module:
        """The first projection (gate and up where gated), or what vLLM put in its place."""
        return self._projection(self.spec.up_name)

    @property
    def down_projection(self) -> torch.nn.Module:
        """The second projection, or what vLLM put in its place."""
        return self._projection(self.spec.down_name)

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """[T, hidden] -> [T, hidden]."""
        return apply_linear(self.down_projection, self.act_fn(apply_linear(self.up_projection, x)))

    def checkpoint_tensors(self, name: str) -> dict[str, Expected]:
        """See :class:`mszoo.layers.weights.HasOwnTensors`."""
        if self.spec.up_first:
            return swapped_tensors(f"{name}.{self.spec.up_name}", self.up_projection)
        if not self.spec.conv1d:
            return {}
        up = transposed_tensors(f"{name}.{self.spec.up_name}", self.up_projection)
        return up | transposed_tensors(f"{name}.{self.spec.down_name}", self.down_projection)

    def _projection(self, name: str) -> torch.nn.Module:
        owner: torch.nn.Module = self._owner
        return owner.get_submodule(name)


class MixtureOfExperts(Module):
    """A router, experts of which each token passes some, and shared ones where the spec has them.

    Args:
        spec: what it is.
        hidden_size: width of its input and output.
        prefix: its name, unique in the model.
        owns_input: whether nobody reads the input of a step afterwards: the output may then take its place.

    Raises:
        RefusalError: as :class:`mszoo.layers.Experts`.
    """

    #: What takes no LoRA adapter: vLLM's layer of experts, on a CPU, and the router, which is called inside it.
    without_lora = frozenset({"experts", "gate"})

    def __init__(self, spec: MoESpec, hidden_size: int, *, prefix: str, owns_input: bool = False) -> None:
        super().__init__()
        self.spec = spec
        if spec.shared is not None:
            shared = MLP(spec.shared, hidden_size, prefix=f"{prefix}.{spec.shared.name}")
            self.add_module(spec.shared.name, shared)
        if spec.shared_gate_name:
            gate = ReplicatedLinear(
                hidden_size,
                1,
                bias=False,
                quant_config=quant_config(),
                prefix=f"{prefix}.{spec.shared_gate_name}",
                return_bias=False,
            )
            self.add_module(spec.shared_gate_name, gate)
        self.gate = TopKRouter(
            hidden_size,
            spec.num_experts,
            spec.top_k,
            scoring_func=spec.scoring_func,
            jitter=spec.jitter,
            renormalize=spec.renormalize,
            routed_scaling_factor=spec.routed_scaling_factor,
            correction_bias=bool(spec.correction_bias_name),
            num_expert_group=spec.num_expert_group,
            topk_group=spec.topk_group,
            bias=spec.bias,
            prefix=f"{prefix}.{spec.router_name}",
        )
        self.experts = Experts(
            self.gate,
            hidden_size,
            spec.intermediate_size,
            spec.hidden_act,
            prefix=f"{prefix}.experts",
            names=spec.expert_names,
            stacked=spec.stacked_names,
            stacked_either_way=spec.stacked_either_way,
            bias=spec.bias,
        )
        self.compiled = CompiledMixture(self, owns_input=owns_input)

    @property
    def unrouted(self) -> MLP | None:
        """The MLP that every token passes, where there is one."""
        return None if self.spec.shared is None else self._modules[self.spec.shared.name]

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """[T, hidden] -> [T, hidden]."""
        done = self.compiled(x)
        if done is not None:
            return done
        output = self.experts(x)
        if self.unrouted is not None:
            beside = to_torch(self.unrouted(x))
            if self.spec.shared_gate_name:
                gate = self.get_submodule(self.spec.shared_gate_name)
                beside = beside * to_torch(apply_linear(gate, x)).sigmoid()
            to_torch(output).add_(beside)
        return output

    def checkpoint_tensors(self, name: str) -> dict[str, Expected]:
        """See :class:`mszoo.layers.weights.HasOwnTensors`: the router, whatever the checkpoint calls it."""
        bias = self.gate.e_score_correction_bias
        found = {
            f"{name}.{self.spec.router_name}.{leaf}": Expected(
                f"{name}.gate.{leaf}", None, tuple(getattr(self.gate, leaf).shape)
            )
            for leaf in ("weight", "bias")
            if getattr(self.gate, leaf, None) is not None
        }
        if bias is not None:
            # Ernie 4.5's has a first axis of one.
            flat = not self.spec.correction_bias_name.startswith("moe_statics.")
            shape = tuple(bias.shape) if flat else (1, len(bias))
            parameter = f"{name}.gate.e_score_correction_bias"
            found[f"{name}.{self.spec.correction_bias_name}"] = Expected(
                parameter, None, shape, load=_load_flat
            )
        return found


def _load_flat(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> None:
    parameter.data.copy_(tensor.flatten())
