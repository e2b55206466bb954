"""What takes the place of the suite's mixture-of-experts layer on CPU."""

from __future__ import annotations

from typing import Any

import torch

import mindspore as ms  # isort: skip
from mszoo.adapters.mindformers.cells import MLP  # isort: skip
from mszoo.kernels.exchange import to_mindspore, to_torch  # isort: skip
from mszoo.layers import (  # isort: skip
    GatedActivation,
    Module,
    ModuleList,
    apply_linear,
    gate_up_linear,
    row_linear,
)


class MoELayer(Module):
    """The suite's ``MoELayer``: a router, experts, and shared experts where the model has them."""

    def __init__(self, cell: Any, *, prefix: str) -> None:
        super().__init__()
        config = cell.config
        self.gate = Router(config)
        self.experts = ModuleList(
            Expert(config, f"{prefix}.experts.{index}") for index in range(config.num_moe_experts)
        )
        if cell.use_shared_expert:
            self.shared_experts = MLP(cell.shared_experts, prefix=f"{prefix}.shared_experts")

    def forward(self, hidden_states: ms.Tensor, **_: Any) -> ms.Tensor:
        """[T, hidden] -> [T, hidden]."""
        x = to_torch(hidden_states)
        weights, chosen = self.gate(x)
        output = torch.zeros_like(x)
        for index in chosen.unique().tolist():
            tokens, rank = (chosen == index).nonzero(as_tuple=True)
            computed = to_torch(self.experts[index](to_mindspore(x[tokens])))
            output.index_add_(0, tokens, computed * weights[tokens, rank, None].to(x.dtype))
        if hasattr(self, "shared_experts"):
            output += to_torch(self.shared_experts(hidden_states))
        return to_mindspore(output)


class Expert(Module):
    """One expert: a gated MLP."""

    def __init__(self, config: Any, prefix: str) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.moe_ffn_hidden_size
        self.gate_up_proj = gate_up_linear(size, inner, bias=False, prefix=f"{prefix}.gate_up_proj")
        self.act_fn = GatedActivation(config.hidden_act)
        self.down_proj = row_linear(inner, size, bias=False, prefix=f"{prefix}.down_proj")

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """[T, hidden] -> [T, hidden]."""
        return apply_linear(self.down_proj, self.act_fn(apply_linear(self.gate_up_proj, x)))


class Router(Module):
    """Chooses the experts of each token, in float32 as Hugging Face does.

    Args:
        config: the suite's ``TransformerConfig``.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        experts = config.num_moe_experts
        self.weight = torch.nn.Parameter(torch.empty(experts, config.hidden_size), requires_grad=False)
        if config.moe_router_enable_expert_bias:
            bias = torch.empty(experts, dtype=torch.float32)
            self.e_score_correction_bias = torch.nn.Parameter(bias, requires_grad=False)
        self.per_token = config.moe_router_topk
        self.groups = config.moe_router_num_groups or 1
        self.groups_per_token = config.moe_router_group_topk or 1
        self.scores_are_softmax = config.moe_router_score_function == "softmax"
        self.normalized = config.norm_topk_prob
        self.scale = config.moe_router_topk_scaling_factor or 1.0

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[T, hidden] -> weights [T, k] float32 and experts [T, k]."""
        logits = torch.nn.functional.linear(x.float(), self.weight.float())
        scores = logits.softmax(-1) if self.scores_are_softmax else logits.sigmoid()
        preference = scores
        if hasattr(self, "e_score_correction_bias"):
            preference = scores + self.e_score_correction_bias
        if self.groups > 1:
            preference = self._in_best_groups(preference)
        chosen = preference.topk(self.per_token, -1, sorted=False)[1]
        weights = scores.gather(1, chosen)
        if self.normalized:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * self.scale, chosen

    def _in_best_groups(self, preference: torch.Tensor) -> torch.Tensor:
        """Set [T, experts] to 0 outside the groups whose two best experts are the best."""
        grouped = preference.unflatten(-1, (self.groups, -1))
        best = grouped.topk(2, -1)[0].sum(-1).topk(self.groups_per_token, -1, sorted=False)[1]
        kept = torch.zeros(grouped.shape[:2], dtype=torch.bool).scatter_(1, best, True)
        return grouped.masked_fill(~kept[..., None], 0.0).flatten(1)
