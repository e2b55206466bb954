"""Multi-head latent attention (DeepSeek-V2 and later): projections of low rank around vLLM's layer for it.

vLLM caches the compressed keys and values of a token, and the one key that carries its position.
"""

from __future__ import annotations

from typing import Any

import torch

from mszoo.kernels import dispatch
from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.decoder.build import build_rotary
from mszoo.layers.decoder.spec import LatentAttentionSpec
from mszoo.layers.linear import apply_linear, heads_on_this_rank, row_linear
from mszoo.layers.methods import quant_config
from mszoo.layers.model import Module
from mszoo.layers.norm import RMSNorm
from mszoo.layers.seam import (
    ColumnParallelLinear,
    MLAAttention,
    ReplicatedLinear,
    cpu_backend,
    get_current_vllm_config,
)
from mszoo.registry.errors import RefusalError

import mindspore as ms


class LatentAttention(Module):
    """Causal attention on a latent cache; parameters have the names of DeepSeek's checkpoints.

    Args:
        spec: what it is.
        hidden_size: width of its input and output.
        prefix: the module's name, unique in the model.

    Raises:
        RefusalError: there is no latent cache; or heads can't be shared out to the ranks.
    """

    def __init__(self, spec: LatentAttentionSpec, hidden_size: int, *, prefix: str) -> None:
        _refuse_without_latent_cache()
        super().__init__()
        self.spec = spec
        num_heads, q_lora_rank = spec.num_heads, spec.q_lora_rank
        heads, _ = heads_on_this_rank(num_heads, num_heads)
        self.heads, self.rank = heads, spec.kv_lora_rank
        self.nope, self.rope, self.value = spec.qk_nope_head_dim, spec.qk_rope_head_dim, spec.v_head_dim
        query = num_heads * (self.nope + self.rope)

        def linear(kind: type, size: int, out: int, name: str) -> Any:
            return kind(
                size,
                out,
                bias=False,
                quant_config=quant_config(),
                prefix=f"{prefix}.{name}",
                return_bias=False,
            )

        self.low_rank = q_lora_rank is not None
        if q_lora_rank is not None:
            self.q_a_proj = linear(ReplicatedLinear, hidden_size, q_lora_rank, "q_a_proj")
            self.q_a_layernorm = RMSNorm(q_lora_rank, spec.norm_eps)
            self.q_b_proj = linear(ColumnParallelLinear, q_lora_rank, query, "q_b_proj")
        else:
            self.q_proj = linear(ColumnParallelLinear, hidden_size, query, "q_proj")
        self.kv_a_proj_with_mqa = linear(
            ReplicatedLinear, hidden_size, self.rank + self.rope, "kv_a_proj_with_mqa"
        )
        self.kv_a_layernorm = RMSNorm(self.rank, spec.norm_eps)
        vllm_config = get_current_vllm_config()
        # vLLM's attention layer multiplies by this one, and takes its weight apart.
        self.kv_b_proj = ColumnParallelLinear(
            self.rank,
            num_heads * (self.nope + self.value),
            bias=False,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.kv_b_proj",
        )
        # One key for all heads; the values' place in its input is not used.
        self.rotary_emb = build_rotary(spec.rotary, self.rope, heads, 1)
        try:
            self.attn = MLAAttention(
                heads,
                spec.scale,
                self.nope,
                self.rope,
                self.value,
                q_lora_rank,
                self.rank,
                kv_b_proj=self.kv_b_proj,
                cache_config=vllm_config.cache_config,
                quant_config=vllm_config.quant_config,
                prefix=f"{prefix}.attn",
            )
        except NotImplementedError as error:  # vLLM 0.23 on CPU
            raise RefusalError(
                "latent attention",
                f"vLLM's attention layer for it doesn't run here ({error})",
                "Serve the model with vLLM 0.30 or newer",
            ) from error
        self.o_proj = row_linear(num_heads * self.value, hidden_size, bias=False, prefix=f"{prefix}.o_proj")

    def forward(self, positions: ms.Tensor, x: ms.Tensor) -> ms.Tensor:
        """[T], [T, hidden] -> [T, hidden]."""
        tokens = x.shape[0]
        query = to_torch(self._query(x)).view(tokens, self.heads, -1)
        latent = to_torch(apply_linear(self.kv_a_proj_with_mqa, x))
        compressed = self.kv_a_layernorm(to_mindspore(latent[:, : self.rank]))
        shared_key = latent[:, None, self.rank :]
        to_rotate = torch.cat([query[..., self.nope :], shared_key, shared_key], 1)
        rotated = to_torch(self.rotary_emb(positions, to_mindspore(to_rotate.view(tokens, -1))))
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


def _refuse_without_latent_cache() -> None:
    what = hint = ""
    if cpu_backend() is None:
        what, hint = "vLLM's layer for it is used on CPU only", "Serve the model with another implementation"
    elif not get_current_vllm_config().model_config.use_mla:
        what, hint = "vLLM was told to expand the latent cache", "Unset VLLM_MLA_DISABLE"
    elif not dispatch.current().by_vllm("paged_attention"):
        what = "it is vLLM's on CPU, in no other kernel set"
        hint = "Unset MSZOO_KERNELS, and MSZOO_DISABLE the plugin that attends"
    if what:
        raise RefusalError("latent attention", what, hint)
