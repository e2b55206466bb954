"""What takes the place of the suite's multi-head latent attention on CPU: around vLLM's own layer for it."""

from __future__ import annotations

from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.attention import MLAAttention
from vllm.model_executor.layers.linear import ColumnParallelLinear, ReplicatedLinear

import mindspore as ms  # isort: skip
from mszoo.adapters.mindformers.cells import InterleavedRotaryEmbedding  # isort: skip
from mszoo.adapters.mindformers.positions import positions  # isort: skip
from mszoo.kernels.exchange import to_mindspore, to_torch  # isort: skip
from mszoo.layers import Module, RMSNorm, apply_linear, heads_on_this_rank, row_linear  # isort: skip
from mszoo.layers.methods import quant_config  # isort: skip


class MLASelfAttention(Module):
    """The suite's ``MLASelfAttention``, with queries of full or of low rank.

    Args:
        cell: the suite's.
        prefix: the module's name.
    """

    def __init__(self, cell: Any, *, prefix: str) -> None:
        super().__init__()
        config, vllm_config = cell.config, get_current_vllm_config()
        heads, _ = heads_on_this_rank(config.num_attention_heads, config.num_attention_heads)
        self.heads, self.rank = heads, config.kv_lora_rank
        self.nope, self.rope, self.value = config.qk_head_dim, config.qk_pos_emb_head_dim, config.v_head_dim
        hidden, query = config.hidden_size, config.num_attention_heads * (self.nope + self.rope)

        def linear(kind: type, size: int, out: int, name: str, quantization: Any) -> Any:
            return kind(
                size,
                out,
                bias=False,
                quant_config=quantization,
                prefix=f"{prefix}.{name}",
                return_bias=False,
            )

        ours, vllms = quant_config(), vllm_config.quant_config
        self.low_rank = config.q_lora_rank is not None
        if self.low_rank:
            self.q_a_proj = linear(ReplicatedLinear, hidden, config.q_lora_rank, "q_a_proj", ours)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, config.layernorm_epsilon)
            self.q_b_proj = linear(ColumnParallelLinear, config.q_lora_rank, query, "q_b_proj", ours)
        else:
            self.q_proj = linear(ColumnParallelLinear, hidden, query, "q_proj", ours)
        name = "kv_a_proj_with_mqa"
        self.kv_a_proj_with_mqa = linear(ReplicatedLinear, hidden, self.rank + self.rope, name, ours)
        self.kv_a_layernorm = RMSNorm(self.rank, config.layernorm_epsilon)
        # vLLM's attention layer multiplies by this one, and takes its weight apart.
        expanded = config.num_attention_heads * (self.nope + self.value)
        self.kv_b_proj = ColumnParallelLinear(
            self.rank, expanded, bias=False, quant_config=vllms, prefix=f"{prefix}.kv_b_proj"
        )
        # One key for all heads; the values' place in its input is not used.
        self.rotary_emb = InterleavedRotaryEmbedding(
            self.rope,
            heads,
            1,
            config.max_position_embeddings,
            _rope(config),
        )
        self.attn = MLAAttention(
            heads,
            cell.softmax_scale,
            self.nope,
            self.rope,
            self.value,
            config.q_lora_rank,
            self.rank,
            kv_b_proj=self.kv_b_proj,
            cache_config=vllm_config.cache_config,
            quant_config=vllms,
            prefix=f"{prefix}.attn",
        )
        self.o_proj = row_linear(
            config.num_attention_heads * self.value, hidden, bias=False, prefix=f"{prefix}.o_proj"
        )

    def forward(self, hidden_states: ms.Tensor, **_: Any) -> ms.Tensor:
        """[T, hidden] -> [T, hidden]."""
        tokens = hidden_states.shape[0]
        query = to_torch(self._query(hidden_states)).view(tokens, self.heads, -1)
        latent = to_torch(apply_linear(self.kv_a_proj_with_mqa, hidden_states))
        compressed = self.kv_a_layernorm(to_mindspore(latent[:, : self.rank].contiguous()))
        shared_key = latent[:, self.rank :]
        to_rotate = torch.cat([query[..., self.nope :].flatten(1), shared_key, shared_key], -1)
        rotated = to_torch(self.rotary_emb(positions(), to_mindspore(to_rotate)))
        rotated = rotated.view(tokens, self.heads + 2, self.rope)
        attended = self.attn(
            torch.cat([query[..., : self.nope], rotated[:, : self.heads]], -1),
            to_torch(compressed),
            rotated[:, self.heads : self.heads + 1],
            output_shape=torch.Size([tokens, self.heads * self.value]),
        )
        return apply_linear(self.o_proj, to_mindspore(attended))

    def _query(self, x: ms.Tensor) -> ms.Tensor:
        if not self.low_rank:
            return apply_linear(self.q_proj, x)
        return apply_linear(self.q_b_proj, self.q_a_layernorm(apply_linear(self.q_a_proj, x)))


def _rope(config: Any) -> dict[str, Any]:
    """Return the rotary embedding's parameters, as Hugging Face calls them, of the suite's config."""
    rope = {"rope_type": "default", "rope_theta": config.rotary_base}
    if config.rope_type != "yarn":
        return rope
    return rope | {
        "rope_type": "yarn",
        "factor": config.rotary_scaling_factor,
        "original_max_position_embeddings": config.max_position_embeddings,
        "beta_fast": config.beta_fast,
        "beta_slow": config.beta_slow,
        "mscale": config.mscale,
        "mscale_all_dim": config.mscale_all_dim,
    }
