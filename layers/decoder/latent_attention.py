"""Multi-head latent attention (DeepSeek-V2 and later): projections of low rank around vLLM's layers.

vLLM caches the compressed keys and values of a token, and the one key that carries its position. Where it has no
such cache (MiniCPM3, ``VLLM_MLA_DISABLE``) it caches keys and values of each head, and attends as in other models.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from mszoo.kernels import dispatch
from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.attention import Attention
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
    """Causal attention, on a latent cache where vLLM has one; parameters have the names of DeepSeek's checkpoints.

    Args:
        spec: what it is.
        hidden_size: width of its input and output.
        prefix: the module's name, unique in the model.

    Raises:
        RefusalError: nothing attends on the latent cache, or on one of values wider than keys; or heads can't be
            shared out to the ranks.
    """

    #: Projections that take no LoRA adapter.
    without_lora: frozenset[str] = frozenset()

    def __init__(self, spec: LatentAttentionSpec, hidden_size: int, *, prefix: str) -> None:
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
        # One key for all heads; the values' place in its input is not used.
        self.rotary_emb = build_rotary(spec.rotary, self.rope, heads, 1)
        self.has_latent_cache = get_current_vllm_config().model_config.use_mla
        if self.has_latent_cache:
            self._attend_on_latent_cache(prefix)
        else:
            expanded = num_heads * (self.nope + self.value)
            self.kv_b_proj = linear(ColumnParallelLinear, self.rank, expanded, "kv_b_proj")
            self._attend_on_expanded_cache(prefix)
        self.o_proj = row_linear(num_heads * self.value, hidden_size, bias=False, prefix=f"{prefix}.o_proj")

    def _attend_on_latent_cache(self, prefix: str) -> None:
        _refuse_without_attention_on_it()
        spec, vllm_config = self.spec, get_current_vllm_config()
        # vLLM's attention layer multiplies by this one, and takes its weight apart: for all requests alike.
        self.without_lora = frozenset({"kv_b_proj"})
        self.kv_b_proj = ColumnParallelLinear(
            self.rank,
            spec.num_heads * (self.nope + self.value),
            bias=False,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.kv_b_proj",
        )
        try:
            self.attn = MLAAttention(
                self.heads,
                spec.scale,
                self.nope,
                self.rope,
                self.value,
                spec.q_lora_rank,
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
                "Serve the model with vLLM 0.30 or newer, or set VLLM_MLA_DISABLE=1",
            ) from error

    def _attend_on_expanded_cache(self, prefix: str) -> None:
        size = self.nope + self.rope
        if self.value > size:
            what = (
                f"v_head_dim={self.value} is more than the {size} of a key, and vLLM caches both in one size"
            )
            raise RefusalError("latent attention", what, "Serve the model with another implementation")
        self.attn = Attention(self.heads, size, self.spec.scale, self.heads, prefix=f"{prefix}.attn")

    @property
    def projections(self) -> tuple[torch.nn.Module, ...]:
        """The projections in order, or what vLLM put in place; its attention multiplies by ``kv_b_proj``."""
        queries = (self.q_a_proj, self.q_b_proj) if self.low_rank else (self.q_proj,)
        return *queries, self.kv_a_proj_with_mqa, self.o_proj

    @property
    def low_rank_norms(self) -> tuple[RMSNorm | None, RMSNorm]:
        """The norms of compressed queries, where there are such, and of compressed keys and values."""
        return (self.q_a_layernorm if self.low_rank else None), self.kv_a_layernorm

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
        query = torch.cat([query[..., : self.nope], rotated[:, : self.heads]], -1)
        key = rotated[:, self.heads : self.heads + 1]
        if self.has_latent_cache:
            shape = torch.Size([tokens, self.heads * self.value])
            attended = to_mindspore(self.attn(query, to_torch(compressed), key, output_shape=shape))
        else:
            attended = self._attend_expanded(query, key, compressed)
        return apply_linear(self.o_proj, attended)

    def _attend_expanded(self, query: torch.Tensor, shared_key: torch.Tensor, x: ms.Tensor) -> ms.Tensor:
        """Attend on keys and values of each head: [T, H, D], [T, 1, rope], [T, rank] -> [T, H value]."""
        expanded = to_torch(apply_linear(self.kv_b_proj, x)).view(len(query), self.heads, -1)
        key, value = expanded.split([self.nope, self.value], -1)
        key = torch.cat([key, shared_key.expand(-1, self.heads, -1)], -1)
        # The cache has room for a key: what the zeros give is left out again.
        value = functional.pad(value, [0, query.shape[-1] - self.value])
        attended = self.attn(to_mindspore(torch.stack([query, key, value], 1).flatten(1)))
        heads = to_torch(attended).view_as(query)[..., : self.value].unbind(1)
        return to_mindspore(torch.cat(heads, -1))

    def _query(self, x: ms.Tensor) -> ms.Tensor:
        if not self.low_rank:
            return apply_linear(self.q_proj, x)
        return apply_linear(self.q_b_proj, self.q_a_layernorm(apply_linear(self.q_a_proj, x)))


def _refuse_without_attention_on_it() -> None:
    what = hint = ""
    if cpu_backend() is None:
        what = "vLLM's layer for it is used on CPU only"
        hint = "Serve the model with another implementation, or set VLLM_MLA_DISABLE=1"
    elif not dispatch.current().by_vllm("paged_attention"):
        what = "on a latent cache it is vLLM's on CPU, in no other kernel set"
        hint = "Unset MSZOO_KERNELS and MSZOO_DISABLE the plugin that attends, or set VLLM_MLA_DISABLE=1"
    if what:
        raise RefusalError("latent attention", what, hint)
