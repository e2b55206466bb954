"""Attention on vLLM's paged KV cache.

The layer is vLLM's own ``Attention``, so cache layout, prefix caching, chunked prefill and sliding windows are
vLLM's. With the ``mindspore`` kernel set it gets an attention backend whose arithmetic is MindSpore's, through
vLLM's own ``attn_backend`` argument.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.attention import Attention as VllmAttention
from vllm.model_executor.layers.attention import EncoderOnlyAttention
from vllm.platforms import current_platform
from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackend,
    CPUAttentionBackendImpl,
    CPUAttentionMetadata,
)

import mindspore as ms  # isort: skip
from mszoo.kernels import dispatch  # isort: skip
from mszoo.kernels.exchange import to_mindspore, to_torch  # isort: skip
from mszoo.layers.step import current_step, store  # isort: skip
from mszoo.registry.errors import RefusalError  # isort: skip


class Attention(VllmAttention):
    """Causal attention of the heads in a fused ``qkv``; it owns its part of vLLM's KV cache.

    Args:
        num_heads: query heads H on this rank.
        head_size: D.
        scale: multiplies the scores.
        num_kv_heads: key/value heads G on this rank.
        sliding_window: keys this many tokens behind and more are hidden; None looks at everything.
        softcap: scores become ``softcap * tanh(scores / softcap)``; None leaves them.
        prefix: the layer's name, unique in the model.

    Raises:
        RefusalError: vLLM's attention has no kernel for this head size.
    """

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        *,
        sliding_window: int | None = None,
        softcap: float | None = None,
        prefix: str,
    ) -> None:
        vllm_config = get_current_vllm_config()
        backend = None
        if not dispatch.current().by_vllm("paged_attention"):
            backend = MindSporeAttentionBackend
            _refuse_quantized_cache(vllm_config.cache_config.cache_dtype)
        _refuse_head_size(head_size)
        super().__init__(
            num_heads,
            head_size,
            scale,
            num_kv_heads=num_kv_heads,
            cache_config=vllm_config.cache_config,
            quant_config=vllm_config.quant_config,
            logits_soft_cap=softcap,
            per_layer_sliding_window=sliding_window,
            prefix=prefix,
            attn_backend=backend,
        )
        self._sizes = [num_heads * head_size, num_kv_heads * head_size, num_kv_heads * head_size]

    def forward(self, qkv: ms.Tensor) -> ms.Tensor:
        """Store the keys and values, then attend: [T, (H + 2 G) D] -> [T, H D]."""
        query, key, value = to_torch(qkv).split(self._sizes, -1)
        return to_mindspore(super().forward(query, key, value))


class EncoderAttention(EncoderOnlyAttention):
    """Attention of an encoder: every token sees all tokens of its sequence, and nothing is cached.

    Args:
        num_heads: heads H on this rank.
        head_size: D.
        scale: multiplies the scores.
        prefix: the layer's name, unique in the model.

    Raises:
        RefusalError: vLLM's attention has no kernel for this head size, or all math is to be MindSpore's.
    """

    def __init__(self, num_heads: int, head_size: int, scale: float, *, prefix: str) -> None:
        if not dispatch.current().by_vllm("paged_attention"):
            raise RefusalError(
                f"MSZOO_KERNELS={dispatch.current().name}",
                "encoders attend with vLLM's kernel alone",
                "Unset MSZOO_KERNELS",
            )
        _refuse_head_size(head_size)
        vllm_config = get_current_vllm_config()
        super().__init__(
            num_heads,
            head_size,
            scale,
            cache_config=vllm_config.cache_config,
            quant_config=vllm_config.quant_config,
            prefix=prefix,
        )
        self._size = num_heads * head_size

    def forward(self, qkv: ms.Tensor) -> ms.Tensor:
        """Attend: [T, 3 H D] -> [T, H D]."""
        query, key, value = to_torch(qkv).split(self._size, -1)
        return to_mindspore(super().forward(query, key, value))


def _refuse_head_size(head_size: int) -> None:
    if current_platform.is_cpu() and head_size not in CPUAttentionBackend.get_supported_head_sizes():
        sizes = ", ".join(map(str, CPUAttentionBackend.get_supported_head_sizes()))
        raise RefusalError(
            "config.json",
            f"head size {head_size} is not one that vLLM's CPU attention serves",
            f"It serves {sizes}",
        )


def _refuse_quantized_cache(cache_dtype: str) -> None:
    if cache_dtype not in ("auto", "float32"):
        raise RefusalError(
            "MSZOO_KERNELS=mindspore",
            f"the KV cache dtype is {cache_dtype}, and MindSpore's CPU backend attends in float32 only",
            "Serve without --kv-cache-dtype, or unset MSZOO_KERNELS",
        )


class MindSporeAttentionBackend(CPUAttentionBackend):
    """vLLM's CPU attention backend with MindSpore's arithmetic.

    Block sizes, metadata and scheduling are vLLM's. A block's memory is laid out ``[G, 2, block, D]``, keys and
    then values of each head; nobody else reads the blocks of these layers.
    """

    @staticmethod
    def get_impl_cls() -> type[MindSporeAttentionImpl]:
        """Return the class that attends."""
        return MindSporeAttentionImpl


class MindSporeAttentionImpl(CPUAttentionBackendImpl):
    """Attends with the ``paged_attention`` kernel of the ``mindspore`` set or of a suite."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._paged_attention = dispatch.current().function("paged_attention")

    def do_kv_cache_update(
        self,
        layer: torch.nn.Module,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Put keys and values [T, G, D] into the slots of ``kv_cache`` [blocks, G, block, 2 D].

        MindSpore computed both; storing them is torch's part, because MindSpore's CPU ops write copies instead
        of foreign memory.
        """
        store(current_step(), kv_cache, slot_mapping, torch.stack((key, value), 2))

    def forward(
        self,
        layer: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: CPUAttentionMetadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend ``query`` [T, H, D] and write ``output`` [T, H, D]; rows that pad the step are left."""
        if attn_metadata is None:  # vLLM's warm-up
            return output
        tokens = attn_metadata.num_actual_tokens
        batch = current_step().batch(attn_metadata)
        used_cache, block_table = batch.used(kv_cache)
        attended = self._paged_attention(
            to_mindspore(query[:tokens]),
            used_cache,
            block_table,
            batch.query_start,
            batch.seq_lens,
            self.scale,
            self.num_kv_heads,
            None if self.sliding_window < 0 else self.sliding_window,
            self.logits_soft_cap,
        )
        output[:tokens] = to_torch(attended).view(tokens, self.num_heads, self.head_size)
        return output
