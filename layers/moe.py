"""Mixture of experts: a router, and experts whose weights lie in vLLM's fused layer.

vLLM shards every expert over ranks and multiplies all of them in one kernel. Who multiplies is decided in
:mod:`mszoo.layers.methods`; on an NPU vllm-ascend's layer does, which takes the place of vLLM's there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch

from mszoo.kernels import dispatch
from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.methods import quant_config
from mszoo.layers.model import lora_is_enabled, outside_the_tree
from mszoo.layers.seam import (
    FusedMoEFactory,
    ReplicatedLinear,
    RoutedExperts,
    UnquantizedFusedMoEMethod,
    UnquantizedLinearMethod,
    cpu_backend,
    experts_context,
    get_current_vllm_config,
    get_tensor_model_parallel_rank,
    init_logger,
    names_of_experts,
    routed_experts_of,
    routing_function,
    without_lora,
)
from mszoo.layers.weights import Expected, load_part_of_rank_along
from mszoo.registry.errors import RefusalError

import mindspore as ms

logger = init_logger("vllm.mszoo.layers")

#: The activations of vLLM's fused layer, by Hugging Face's names.
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "swigluoai": "swigluoai",
}
#: Puts a checkpoint's tensor into a parameter.
Load: TypeAlias = Callable[[torch.nn.Parameter, torch.Tensor], None]
#: Phi-MoE's way to choose experts, which are two there.
_SPARSEMIXER = "sparsemixer"
#: What a projection has in each format: weights, in quantized checkpoints with scales, and zero points in some.
_STORED = (
    "weight",
    "weight_packed",
    "weight_scale",
    "weight_scale_inv",
    "weight_zero_point",
    "qweight",
    "scales",
    "qzeros",
)
#: Of ``--additional-config``: what vllm-ascend has for models whose layers are all its own.
_OF_OWN_MODELS = ("enable_flashcomm1", "eplb_config", "mix_placement", "multistream_overlap_gate")


class TopKRouter(ReplicatedLinear):
    """Chooses the experts of each token, in float32; every rank chooses for itself.

    Its weight is kept in float32 whatever the model's dtype, so that it isn't converted at every step.

    Args:
        hidden_size, num_experts: sizes of the weight.
        top_k: how many experts a token gets.
        scoring_func: what makes scores of logits: "softmax", "sigmoid" or "sparsemixer", which chooses experts one
            after the other, each weighed among those that are left and near it.
        jitter: of the sparsemixer: half of how far below the best a near logit may be, relatively.
        renormalize: the weights of a token's experts are made to add up to 1.
        routed_scaling_factor: multiplies the weights.
        correction_bias: experts are chosen by their scores and a bias, ``e_score_correction_bias``; their weights
            are scores.
        num_expert_group, topk_group: a token's experts are of the ``topk_group`` best groups: with a bias those
            whose two best experts are the best (DeepSeek-V3), else whose best one is (DeepSeek-V2).
        bias: whether logits have one (gpt-oss).
        prefix: its name in the checkpoint, by which a quantized one says that it isn't.

    Raises:
        RefusalError: the function isn't known, or the checkpoint has the router quantized.
    """

    def __init__(
        self,
        hidden_size: int,
        num_experts: int,
        top_k: int,
        *,
        scoring_func: str = "softmax",
        jitter: float = 0.0,
        renormalize: bool = True,
        routed_scaling_factor: float = 1.0,
        correction_bias: bool = False,
        num_expert_group: int = 1,
        topk_group: int = 1,
        bias: bool = False,
        prefix: str,
    ) -> None:
        known: dict[str, Callable[..., torch.Tensor]] = {"softmax": torch.softmax, "sigmoid": _sigmoid}
        if scoring_func not in (*known, _SPARSEMIXER):
            raise RefusalError(
                "config.json",
                f"scoring_func={scoring_func!r} is not known",
                f"Known functions: {', '.join((*known, _SPARSEMIXER))}",
            )
        super().__init__(
            hidden_size,
            num_experts,
            bias=bias,
            params_dtype=torch.float32,
            quant_config=quant_config(),
            prefix=prefix,
            return_bias=False,
        )
        if not isinstance(self.quant_method, UnquantizedLinearMethod):
            raise RefusalError(
                "mszoo.layers",
                f"takes no router with {self.quant_config.get_name()} weights ({prefix})",
                "Quantize the model without its routers",
            )
        self.e_score_correction_bias: torch.nn.Parameter | None = None
        if correction_bias:
            zeros = torch.zeros(num_experts, dtype=torch.float32)
            self.e_score_correction_bias = torch.nn.Parameter(zeros, requires_grad=False)
        self.top_k = top_k
        self._scores_of = known.get(scoring_func)
        self._jitter = jitter
        self._renormalize, self._scale = renormalize, routed_scaling_factor
        self._groups, self._topk_group = num_expert_group, topk_group
        self._best_logits_decide = (
            scoring_func == "softmax" and renormalize and num_expert_group == 1 and not correction_bias
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[T, hidden] -> weights [T, k] float32, experts [T, k]."""
        logits = super().forward(x.float())
        if self._best_logits_decide:  # the same weights in two ops instead of five
            best, chosen = logits.topk(self.top_k, -1, sorted=False)
            return self._scaled(best.softmax(-1)), chosen
        if self._scores_of is None:
            return self._mixed(logits)
        scores = self._scores_of(logits, -1)
        chosen = self._preference(scores).topk(self.top_k, -1, sorted=False)[1]
        weights = scores.gather(1, chosen)
        if self._renormalize:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return self._scaled(weights), chosen

    def _scaled(self, weights: torch.Tensor) -> torch.Tensor:
        return weights if self._scale == 1.0 else weights * self._scale

    def _mixed(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Choose by the sparsemixer."""
        left, weights, chosen = logits, [], []
        for _ in range(self.top_k):
            best, index = left.max(-1, keepdim=True)
            far = (best - logits) / logits.abs().clamp(min=best) > 2 * self._jitter
            weights.append(left.masked_fill(far, -torch.inf).softmax(-1).gather(-1, index))
            chosen.append(index)
            left = left.scatter(-1, index, -torch.inf)
        return self._scaled(torch.cat(weights, -1)), torch.cat(chosen, -1)

    def _preference(self, scores: torch.Tensor) -> torch.Tensor:
        """Return by what experts are chosen: [T, experts], nothing outside the best groups."""
        biased = scores if self.e_score_correction_bias is None else scores + self.e_score_correction_bias
        if self._groups == 1:
            return biased
        return best_groups(biased, self._groups, self._topk_group, by_two=biased is not scores)


def best_groups(scores: torch.Tensor, groups: int, chosen: int, *, by_two: bool) -> torch.Tensor:
    """Return the scores of the best groups of experts, and minus infinity for the others: [T, experts].

    Args:
        scores: [T, experts], group by group.
        groups, chosen: how many there are, and how many are the best.
        by_two: a group counts by its two best experts, not by its best one.
    """
    grouped = scores.unflatten(-1, (groups, -1))
    of_groups = grouped.topk(2, -1)[0].sum(-1) if by_two else grouped.amax(-1)
    best = of_groups.topk(chosen, -1, sorted=False)[1]
    kept = torch.zeros(grouped.shape[:2], dtype=torch.bool, device=scores.device).scatter_(1, best, True)
    return grouped.masked_fill(~kept[..., None], -torch.inf).flatten(1)


class Experts(torch.nn.Module):
    """Gated MLPs, of which each token passes those that a router chooses.

    Args:
        router: chooses; its own weight stays outside.
        hidden_size, intermediate_size: of each expert.
        hidden_act: Hugging Face's name of the gate's activation.
        prefix: the layer's name, unique in the model.
        names: the checkpoint's names of an expert's gate, up and down projection.
        stacked: the checkpoint's names, beside the layer's own, of one tensor with gate and up projection of all
            experts [experts, 2 intermediate, hidden] and one with their down projection, where it has such.
        stacked_either_way: these may be [experts, hidden, 2 intermediate] and [experts, intermediate, hidden] too.
        bias: all projections have biases, and the stacked tensors are [experts, hidden, 2 intermediate] and
            [experts, intermediate, hidden], gate and up taking turns; the biases' names have ``_bias`` behind.

    Raises:
        RefusalError: vLLM has no kernel for the sizes or the activation, or for whole experts on ranks; LoRA is
            asked for, and its layer can't be kept from it; on an NPU, something is asked for that vllm-ascend has
            for its own models alone.
    """

    fused: Any

    def __init__(
        self,
        router: TopKRouter,
        hidden_size: int,
        intermediate_size: int,
        hidden_act: str,
        *,
        prefix: str,
        names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
        stacked: tuple[str, str] | None = None,
        stacked_either_way: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if hidden_act not in _ACTIVATIONS:
            raise RefusalError(
                "config.json",
                f"hidden_act is {hidden_act!r}, and experts have {', '.join(_ACTIVATIONS)}",
                "Serve the model with another implementation",
            )
        vllm_config = get_current_vllm_config()
        on_cpu = cpu_backend() is not None
        if not on_cpu:
            _refuse_on_device(vllm_config)
            logger.info_once("mszoo: experts are multiplied by vllm-ascend's layer of them")
        self._experts, self._choose = router.output_size, router.forward
        self._context = experts_context(vllm_config)
        self._size = hidden_size, intermediate_size
        self._names, self._stacked, self._either_way = names, stacked, stacked_either_way
        self._bias = bias
        by_vllm, parallel = dispatch.current().by_vllm("linear"), vllm_config.parallel_config
        if bias and not by_vllm:
            raise RefusalError(
                f"MSZOO_KERNELS={dispatch.current().name}",
                "experts with biases are in vLLM's kernel alone",
                "Unset MSZOO_KERNELS",
            )
        if parallel.enable_expert_parallel and parallel.tensor_parallel_size > 1 and by_vllm:
            raise RefusalError(
                "vLLM",
                "--enable-expert-parallel: a worker with vLLM's kernel for experts on CPU dies of it",
                "Serve without it: each rank then has a part of every expert",
            )
        apart = on_cpu and lora_is_enabled()
        if apart:
            _refuse_beside_lora(vllm_config)
        making: AbstractContextManager[None] = without_lora(vllm_config) if apart else nullcontext()
        try:
            with making:
                fused = FusedMoEFactory(
                    num_experts=self._experts,
                    top_k=router.top_k,
                    hidden_size=hidden_size,
                    intermediate_size=intermediate_size,
                    activation=_ACTIVATIONS[hidden_act],
                    custom_routing_function=routing_function(router.forward),
                    quant_config=quant_config() if on_cpu else None,  # vllm-ascend's has no other methods
                    prefix=prefix,
                    **names_of_experts(names),
                    has_bias=bias,
                    # Each has all experts: vLLM 0.32 has no exchange between them on CPU, and dies of it.
                    dp_size=1,
                )
        except (NotImplementedError, RuntimeError, ValueError) as error:
            raise RefusalError(
                "config.json",
                f"vLLM has no kernel for experts of {hidden_size} x {intermediate_size} ({error})",
                "Serve the model with another implementation",
            ) from error
        if apart:
            # In place of a layer in the tree vLLM puts one with LoRA, which for experts is Triton's.
            outside_the_tree(self, fused=fused)
            self.routed_experts, self._weights = routed_experts_of(fused)[0], "routed_experts"
        else:
            self.fused = fused
            self._weights = f"fused.{routed_experts_of(fused)[1]}".rstrip(".")
        self._check_quantized()

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """[T, hidden] -> the weighted sum of the chosen experts' outputs [T, hidden]."""
        hidden_states = to_torch(x)
        kernel = self.kernel()
        if kernel is None:
            # The router sees the hidden states; vLLM passes on "logits" without looking at them.
            with self._context():
                return to_mindspore(self.fused(hidden_states, hidden_states))
        (experts, _), nothing = routed_experts_of(self.fused), hidden_states.new_empty(0)
        weights, chosen = self.fused.router.select_experts(
            hidden_states, hidden_states, topk_indices_dtype=torch.int32
        )
        output = torch.empty_like(hidden_states)
        kernel.apply(
            output,
            hidden_states,
            experts.w13_weight,
            experts.w2_weight,
            weights,
            chosen,
            experts.activation,
            self._experts,
            expert_map=None,
            a1q_scale=None,
            a2_scale=None,
            workspace13=nothing,
            workspace2=nothing,
            expert_tokens_meta=None,
            apply_router_weight_on_input=False,
        )
        return to_mindspore(output)

    def _check_quantized(self) -> None:
        """Refuse quantized experts that vLLM has no kernel for, or that the checkpoint has in one tensor."""
        method = routed_experts_of(self.fused)[0].quant_method
        if cpu_backend() is None or isinstance(method, UnquantizedFusedMoEMethod):
            return  # on another device none are quantized
        # Of some formats vLLM finds that out when the weights are there.
        if getattr(method, "experts_cls", method) is None:
            raise RefusalError(
                "config.json",
                f"vLLM has no kernel for its experts' weights on this processor ({type(method).__name__})",
                "Serve a checkpoint whose experts aren't quantized",
            )
        if self._stacked is not None:
            raise RefusalError(
                "mszoo.layers",
                "takes quantized experts one by one, and this checkpoint has all of a layer in one tensor",
                "Serve the model with another implementation",
            )

    @property
    def hidden_size(self) -> int:
        """Width of what comes in and goes out."""
        return self._size[0]

    def choose(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Route: [T, hidden] -> weights [T, k] float32, experts [T, k]."""
        return self._choose(hidden_states)

    def kernel(self) -> Any:
        """Return vLLM's kernel where its layer does nothing else beside routing: one rank has all experts.

        The way through the layer takes as long as the kernel does for one token.
        """
        backend = cpu_backend()
        parallel = self.fused.moe_config.moe_parallel_config
        if backend is None or any(
            size > 1 for size in (parallel.tp_size, parallel.ep_size, parallel.dp_size, parallel.pcp_size)
        ):
            return None
        return backend.experts_kernel(routed_experts_of(self.fused)[0])

    def checkpoint_tensors(self, name: str) -> dict[str, Expected]:
        """See :class:`mszoo.layers.weights.HasOwnTensors`."""
        hidden_size, intermediate_size = self._size
        prefix = f"{name}.{self._weights}."
        w13, w2 = f"{prefix}w13_weight", f"{prefix}w2_weight"
        if self._stacked is not None:
            beside = name.rpartition(".")[0]
            if self._bias:
                return self._with_biases(beside, prefix)
            gate_up = self._experts, 2 * intermediate_size, hidden_size
            down = self._experts, hidden_size, intermediate_size
            ways = (w13, gate_up, _load_gate_up), (w2, down, _load_down)
            return {
                f"{beside}.{stack}": self._of_all(parameter, shape, load)
                for stack, (parameter, shape, load) in zip(self._stacked, ways, strict=True)
            }
        shapes = ((intermediate_size, hidden_size),) * 2 + ((hidden_size, intermediate_size),)
        return {
            f"{name}.{index}.{projection}.{leaf.removeprefix(part)}": Expected(
                f"{prefix}{leaf}",
                None,
                shape if leaf == f"{part}weight" and parameter.is_floating_point() else None,
                required=leaf.removeprefix(part) in _STORED,
                load=_loader(shard, index, leaf),
            )
            for projection, part, shape, shard in zip(
                self._names, ("w13_", "w13_", "w2_"), shapes, ("w1", "w3", "w2"), strict=True
            )
            # A quantized checkpoint has scales beside the weights, and maybe zero points.
            for leaf, parameter in routed_experts_of(self.fused)[0].named_parameters(recurse=False)
            if leaf.startswith(part)
            for index in range(self._experts)
        }

    def _with_biases(self, beside: str, prefix: str) -> dict[str, Expected]:
        """Return where the tensors of all experts go, transposed, and their biases."""
        assert self._stacked is not None
        (gate_up, down), experts = self._stacked, self._experts
        hidden, intermediate = self._size
        places = {
            gate_up: ("w13_weight", (experts, hidden, 2 * intermediate), _load_transposed(1)),
            down: ("w2_weight", (experts, intermediate, hidden), _load_transposed(2)),
            f"{gate_up}_bias": ("w13_bias", (experts, 2 * intermediate), load_part_of_rank_along(1)),
            f"{down}_bias": ("w2_bias", (experts, hidden), _load_on_first_rank),
        }
        return {
            f"{beside}.{name}": Expected(f"{prefix}{parameter}", None, shape, load=load)
            for name, (parameter, shape, load) in places.items()
        }

    def _of_all(self, parameter: str, shape: tuple[int, int, int], load: Load) -> Expected:
        """Return where a tensor of all experts goes."""
        if not self._either_way:
            return Expected(parameter, None, shape, load=load)

        def either(into: torch.nn.Parameter, tensor: torch.Tensor) -> None:
            load(into, tensor if tensor.shape == shape else tensor.transpose(1, 2))

        return Expected(parameter, None, shape, other_shape=(shape[0], shape[2], shape[1]), load=either)


def _refuse_beside_lora(vllm_config: Any) -> None:
    """Refuse what a layer of experts that vLLM's manager of adapters doesn't see can't be."""
    if FusedMoEFactory is RoutedExperts:
        raise RefusalError(
            "--enable-lora",
            "this vLLM keeps experts' weights in the layer that takes adapters, by Triton's kernels alone",
            "Serve it with vLLM 0.30 or newer, or merge the adapter into the weights and serve these without",
        )
    if getattr(vllm_config.model_config, "enable_return_routed_experts", False):
        raise RefusalError(
            "--enable-return-routed-experts",
            "with --enable-lora vLLM doesn't see the layers of experts whose choices it would return",
            "Serve it without one of the two",
        )


def _refuse_on_device(vllm_config: Any) -> None:
    """Refuse what vllm-ascend's layer of experts has for its own models alone, or does to others'."""
    parallel, asked = vllm_config.parallel_config, vllm_config.additional_config or {}
    if vllm_config.lora_config is not None and vllm_config.model_config.runner_type != "draft":
        raise RefusalError(
            "--enable-lora",
            "it has experts, and nobody tried adapters beside vllm-ascend's layer of them",
            "Merge the adapter into the weights, and serve these without",
        )
    if parallel.enable_expert_parallel and parallel.tensor_parallel_size * parallel.data_parallel_size > 1:
        raise RefusalError(
            "--enable-expert-parallel",
            "nobody tried vllm-ascend's exchange of tokens between ranks with mszoo's layers",
            "Serve without it: each rank then has a part of every expert",
        )
    if vllm_config.model_config.enable_sleep_mode:
        raise RefusalError(
            "--enable-sleep-mode",
            "vllm-ascend turns experts' weights round when it wakes up, for others that are to be loaded then",
            "Serve without it",
        )
    for name in _OF_OWN_MODELS:
        if asked.get(name):
            raise RefusalError(
                f"--additional-config {name}",
                "vllm-ascend has it for experts between layers of its own",
                f"Serve without {name}",
            )
    if getattr(vllm_config.model_config.hf_config, "swiglu_limit", 0) != 0:
        raise RefusalError(
            "config.json",
            "swiglu_limit, by which vllm-ascend's layer of experts caps them whatever the model",
            "Serve the model with another implementation",
        )


def _sigmoid(logits: torch.Tensor, _: int) -> torch.Tensor:
    return logits.sigmoid()


def _loader(shard: str, expert: int, name: str = "weight") -> Load:
    """Return what loads one tensor of one expert's projection; vLLM tells kinds of tensors by their names."""

    def load(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> None:
        parameter.weight_loader(parameter, tensor, name, shard_id=shard, expert_id=expert)

    return load


def _load_gate_up(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> None:
    for index, expert in enumerate(tensor):
        for shard, half in zip(("w1", "w3"), expert.chunk(2), strict=True):
            _loader(shard, index)(parameter, half)


def _load_down(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> None:
    for index, expert in enumerate(tensor):
        _loader("w2", index)(parameter, expert)


def _load_transposed(axis: int) -> Load:
    """Return what loads the last two axes the other way round, and of ``axis`` then the part of this rank."""
    load_part = load_part_of_rank_along(axis)

    def load(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> None:
        load_part(parameter, tensor.transpose(1, 2))

    return load


def _load_on_first_rank(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> None:
    """Load what one rank adds for all: their outputs are summed."""
    parameter.data.copy_(tensor if get_tensor_model_parallel_rank() == 0 else torch.zeros_like(tensor))
