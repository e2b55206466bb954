"""Attention on vLLM's paged KV cache.

The layer is vLLM's own ``Attention``, so cache layout, prefix caching, chunked prefill and sliding windows are
vLLM's. With the ``mindspore`` kernel set on a CPU it gets an attention backend whose arithmetic is MindSpore's,
through vLLM's own ``attn_backend`` argument; on another device vLLM's backend for it attends.
"""

from __future__ import annotations

import copy

from mszoo.kernels import dispatch
from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.seam import EncoderOnlyAttention, VllmAttention, cpu_backend, get_current_vllm_config
from mszoo.registry.errors import RefusalError

import mindspore as ms


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
        RefusalError: vLLM's attention has no kernel for this head size or for a cap, or nothing attends with
            MindSpore on this device.
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
            backend = _mindspore_backend()
            _refuse_quantized_cache(vllm_config.cache_config.cache_dtype)
        elif softcap is not None and cpu_backend() is None:
            raise RefusalError(
                "config.json",
                f"attention's scores are capped at {softcap}, and vLLM's attention on this device takes no cap",
                "Serve the model on a CPU",
            )
        _refuse_head_size(head_size)
        cache_config = copy.copy(vllm_config.cache_config)
        # vLLM gives a layer without a window that of config.json, which some models have and never read.
        cache_config.sliding_window = None
        super().__init__(
            num_heads,
            head_size,
            scale,
            num_kv_heads=num_kv_heads,
            cache_config=cache_config,
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


def _mindspore_backend() -> type:
    if cpu_backend() is None:
        raise RefusalError(
            "the mindspore kernel set",
            "its attention is a backend of vLLM's on CPU, and this is another device",
            "Serve the model with another implementation",
        )
    # Imported here: it stands on vLLM's CPU backend.
    from mszoo.layers.cpu_attention import MindSporeAttentionBackend

    return MindSporeAttentionBackend


def _refuse_head_size(head_size: int) -> None:
    backend = cpu_backend()
    if backend is None:
        return
    served = backend.CPUAttentionBackend.get_supported_head_sizes()
    if head_size not in served:
        raise RefusalError(
            "config.json",
            f"head size {head_size} is not one that vLLM's CPU attention serves",
            f"It serves {', '.join(map(str, served))}",
        )


def _refuse_quantized_cache(cache_dtype: str) -> None:
    if cache_dtype not in ("auto", "float32"):
        raise RefusalError(
            "MSZOO_KERNELS=mindspore",
            f"the KV cache dtype is {cache_dtype}, and MindSpore's CPU backend attends in float32 only",
            "Serve without --kv-cache-dtype, or unset MSZOO_KERNELS",
        )
