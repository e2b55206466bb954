"""What takes the place of the suite's mixture-of-experts layer on CPU."""

from __future__ import annotations

from typing import Any

import mindspore as ms  # isort: skip
from mszoo.adapters.mindformers.cells import MLP  # isort: skip
from mszoo.kernels.exchange import to_torch  # isort: skip
from mszoo.layers import Experts, Module, TopKRouter  # isort: skip


class MoELayer(Module):
    """The suite's ``MoELayer``: a router, experts, and shared experts where the model has them."""

    def __init__(self, cell: Any, *, prefix: str) -> None:
        super().__init__()
        config = cell.config
        if cell.use_shared_expert:
            self.shared_experts = MLP(cell.shared_experts, prefix=f"{prefix}.shared_experts")
        self.gate = TopKRouter(
            config.hidden_size,
            config.num_moe_experts,
            config.moe_router_topk,
            scores=config.moe_router_score_function,
            normalized=config.norm_topk_prob,
            scale=config.moe_router_topk_scaling_factor or 1.0,
            bias=config.moe_router_enable_expert_bias,
            groups=config.moe_router_num_groups or 1,
            groups_per_token=config.moe_router_group_topk or 1,
            prefix=f"{prefix}.gate",
        )
        self.experts = Experts(
            self.gate,
            config.hidden_size,
            config.moe_ffn_hidden_size,
            config.hidden_act,
            prefix=f"{prefix}.experts",
        )

    def forward(self, hidden_states: ms.Tensor, **_: Any) -> ms.Tensor:
        """[T, hidden] -> [T, hidden]."""
        output = self.experts(hidden_states)
        if hasattr(self, "shared_experts"):
            to_torch(output).add_(to_torch(self.shared_experts(hidden_states)))
        return output
