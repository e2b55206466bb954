"""A mixture of experts of the ``cpu`` kernel set as one compiled call: router, experts and shared experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mszoo.kernels import compiled, dispatch, vllm_ops
from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.decoder import path
from mszoo.layers.decoder.compiled_parts import Parts
from mszoo.layers.methods import CpuLinearMethod
from mszoo.layers.seam import LinearBase, init_logger, routed_experts_of

import mindspore as ms

if TYPE_CHECKING:
    from mszoo.layers.decoder.mlp import MixtureOfExperts

logger = init_logger("vllm.mszoo.layers")

#: How a router may make scores of logits.
_SCORING = ("softmax", "sigmoid")


class CompiledMixture:
    """Decides once, at the first step, whether a mixture can run in one call, and then does it.

    Args:
        mixture: looked at in the first step only: until then vLLM may replace some of its parts (LoRA).
        owns_input: whether nobody reads the input of a step afterwards: the output then takes its place.
    """

    def __init__(self, mixture: MixtureOfExperts, *, owns_input: bool) -> None:
        self._mixture, self._kernels = mixture, dispatch.current()
        self._wanted, self._owns_input = path.is_wanted("cpu"), owns_input
        self._parts: Parts | None = None

    @property
    def runs(self) -> bool:
        """Whether the mixture runs in one call."""
        return self._parts is not None

    def stop(self) -> None:
        """Run the mixture op by op from now on."""
        self._wanted, self._parts = False, None

    def __call__(self, x: ms.Tensor) -> ms.Tensor | None:
        """Return the mixture's output [T, hidden] of [T, hidden], or None where it has to run op by op."""
        if not self._wanted or path.is_profiling():
            return None
        if self._parts is None or self._parts.outdated:
            obstacle = self._obstacle()
            self._wanted = obstacle is None
            if obstacle is not None:
                logger.info_once("mszoo: experts run op by op: %s", obstacle)
                return None
            self._compile()
        hidden = to_torch(x)
        output = hidden if self._owns_input else torch.empty_like(hidden)
        self._run(hidden, output, self._weights.w13_weight, self._weights.w2_weight)
        return x if self._owns_input else to_mindspore(output)

    def _obstacle(self) -> str | None:
        mixture, spec = self._mixture, self._mixture.spec
        shared = mixture.unrouted
        projections = () if shared is None else (shared.up_projection, shared.down_projection)
        ops = {"linear"} if shared is None else {"linear", shared.act_fn.op}
        of_suites = sorted(ops & self._kernels.from_suites.keys())
        router, kernel = getattr(mixture.experts.fused, "router", None), mixture.experts.kernel()
        recorded = [getattr(router, name, None) for name in ("capture_fn", "eplb_state")]
        methods = [getattr(part, "quant_method", None) for part in (mixture.gate, *projections)]
        in_place = [type(part).__name__ for part in projections if not isinstance(part, LinearBase)]
        obstacles = {
            ", ".join(f"{op} is run by {self._kernels.ops[op].who}" for op in of_suites): bool(of_suites),
            f"scoring_func={spec.scoring_func}": spec.scoring_func not in _SCORING,
            "a gate of the shared experts": bool(spec.shared_gate_name),
            "another layer of experts, or ranks": kernel is None or getattr(kernel, "_use_zentorch", False),
            f"a {', '.join(in_place[:1])} is in place": bool(in_place),
            "vLLM records who was chosen": recorded != [None, None],
            "something else multiplies": any(type(method) is not CpuLinearMethod for method in methods),
            "torch multiplies": any(getattr(method, "handler", None) is None for method in methods),
        }
        found = next((what for what, is_so in obstacles.items() if is_so), None)
        return found or compiled.missing() or vllm_ops.obstacle(vllm_ops.COMPILED_EXPERTS)

    def _compile(self) -> None:
        mixture, spec, parts = self._mixture, self._mixture.spec, Parts()
        shared, kernel = mixture.unrouted, mixture.experts.kernel()
        parts.add_projections([("gate", mixture.gate)])
        parts.words |= {
            "activation": "" if shared is None else shared.act_fn.op,
            "scoring_func": spec.scoring_func,
            "isa": kernel.isa,
        }
        if shared is not None:
            parts.add_projections([("up_proj", shared.up_projection), ("down_proj", shared.down_projection)])
        self._weights: Any = routed_experts_of(mixture.experts.fused)[0]
        parts.words["experts_activation"] = self._weights.activation.value
        parts.integers |= {
            "top_k": spec.top_k,
            "num_expert_group": spec.num_expert_group,
            "topk_group": spec.topk_group,
            "renormalize": spec.renormalize,
        }
        parts.floats["routed_scaling_factor"] = spec.routed_scaling_factor
        biases = {
            "e_score_correction_bias": mixture.gate.e_score_correction_bias,
            "w13_bias": kernel.w1_bias,
            "w2_bias": kernel.w2_bias,
        }
        parts.tensors |= {name: bias.data for name, bias in biases.items() if bias is not None}
        self._parts = parts
        self._run = parts.make("Mixture").run
