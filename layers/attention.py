"""Attention on vLLM's paged KV cache.

The layer is vLLM's own ``Attention``, so cache layout, prefix caching, chunked prefill and sliding windows are
vLLM's. With the ``mindspore`` kernel set on a CPU it gets an attention backend whose arithmetic is MindSpore's,
through vLLM's own ``attn_backend`` argument; on another device vLLM's backend for it attends.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from mszoo.kernels import dispatch
from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.seam import (
    EncoderOnlyAttention,
    VllmAttention,
    attention_context,
    cpu_backend,
    get_current_vllm_config,
)
from mszoo.registry.errors import RefusalError

import mindspore as ms

if TYPE_CHECKING:
    from mszoo.layers.relative import RelativeBias


class Attention(VllmAttention):
    """Causal attention of the heads in a fused ``qkv``; it owns its part of vLLM's KV cache.

    Args:
        num_heads: query heads H on this rank.
        head_size: D.
        scale: multiplies the scores.
        num_kv_heads: key/value heads G on this rank.
        sliding_window: keys this many tokens behind and more are hidden; None looks at everything.
        softcap: scores become ``softcap * tanh(scores / softcap)``; None leaves them.
        sinks: a score of each head [H], of a key without a value that every query sees; None where there is none.
        prefix: the layer's name, unique in the model.

    Raises:
        RefusalError: vLLM's attention has no kernel for this head size, for a cap, for sinks, or for the dtype of
            the model or of the cache; or nothing attends with MindSpore on this device.
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
        sinks: torch.nn.Parameter | None = None,
        prefix: str,
    ) -> None:
        vllm_config = get_current_vllm_config()
        if sinks is not None:
            _refuse_sinks(sinks.dtype)
        backend = None
        if not dispatch.current().by_vllm("paged_attention"):
            backend = _mindspore_backend()
            _refuse_quantized_cache(vllm_config.cache_config.cache_dtype)
        elif cpu_backend() is None:
            _refuse_on_device(vllm_config, softcap)
        _refuse_head_size(head_size)
        super().__init__(
            num_heads,
            head_size,
            scale,
            num_kv_heads=num_kv_heads,
            cache_config=_without_window(vllm_config.cache_config),
            quant_config=vllm_config.quant_config,
            logits_soft_cap=softcap,
            per_layer_sliding_window=sliding_window,
            prefix=prefix,
            attn_backend=backend,
            sinks=sinks,
        )
        dtype = vllm_config.model_config.dtype
        if cpu_backend() is None and not self.attn_backend.supports_dtype(dtype):
            raise RefusalError(
                f"--dtype {_name(dtype)}",
                f"{self.attn_backend.__name__} attends in "
                f"{' and '.join(_name(item) for item in self.attn_backend.supported_dtypes)}",
                f"Serve with --dtype {_name(self.attn_backend.supported_dtypes[-1])}",
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
        num_kv_heads: key/value heads G on this rank; as many as H where none are given.
        sliding_window: keys this many tokens away, on either side, and more are hidden; None looks at everything.
        prefix: the layer's name, unique in the model.

    Raises:
        RefusalError: vLLM's attention has no kernel for this head size, or none for a window on this device; or all
            math is to be MindSpore's.
    """

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        *,
        sliding_window: int | None = None,
        prefix: str,
    ) -> None:
        if not dispatch.current().by_vllm("paged_attention"):
            raise RefusalError(
                f"MSZOO_KERNELS={dispatch.current().name}",
                "attention that sees later tokens is vLLM's kernel alone",
                "Unset MSZOO_KERNELS",
            )
        if cpu_backend() is None and sliding_window is not None:
            raise RefusalError(
                "config.json",
                "its tokens see later ones within a window, and vllm-ascend's attention takes no notice of that",
                "Serve the model on a CPU",
            )
        _refuse_head_size(head_size)
        vllm_config = get_current_vllm_config()
        kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        super().__init__(
            num_heads,
            head_size,
            scale,
            num_kv_heads=kv_heads,
            cache_config=_without_window(vllm_config.cache_config),
            quant_config=vllm_config.quant_config,
            per_layer_sliding_window=sliding_window,
            prefix=prefix,
        )
        self._sizes = [num_heads * head_size, kv_heads * head_size, kv_heads * head_size]

    def forward(self, qkv: ms.Tensor) -> ms.Tensor:
        """Attend: [T, (H + 2 G) D] -> [T, H D]."""
        query, key, value = to_torch(qkv).split(self._sizes, -1)
        return to_mindspore(super().forward(query, key, value))


class BiasedEncoderAttention(EncoderAttention):
    """Attention of an encoder whose scores get a bias by how far two tokens are apart.

    No kernel of vLLM's takes such a bias: torch's attends, one call a sequence. For the arguments see
    :class:`EncoderAttention`; there is no sliding window.

    Attributes:
        bias: gives the bias of this rank's heads; whoever builds the model sets it.
    """

    bias: RelativeBias

    def forward(self, qkv: ms.Tensor) -> ms.Tensor:
        """Attend: [T, (H + 2 G) D] -> [T, H D]."""
        parts = to_torch(qkv).split(self._sizes, -1)
        output = torch.zeros_like(parts[0])
        metadata = attention_context(self.layer_name).metadata
        if metadata is None:  # vLLM profiles memory
            return to_mindspore(output)
        heads = [part.unflatten(-1, (-1, self.head_size)).transpose(0, 1) for part in parts]
        starts = metadata.query_start_loc.tolist()
        bias = self.bias.of(metadata, max(end - start for start, end in pairwise(starts)))
        for start, end in pairwise(starts):
            length = end - start
            query, key, value = (part[None, :, start:end] for part in heads)
            attended = functional.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=bias[None, :, :length, :length],
                scale=self.impl.scale,
                enable_gqa=self.num_kv_heads != self.num_heads,
            )
            output[start:end] = attended[0].transpose(0, 1).flatten(1)
        return to_mindspore(output)


def _without_window(cache_config: Any) -> Any:
    """Return vLLM's config of the cache without a window, which layers have of their own.

    vLLM gives a layer without one that of config.json, which some models have and never read.
    """
    changed = copy.copy(cache_config)
    changed.sliding_window = None
    return changed


def _refuse_on_device(vllm_config: Any, softcap: float | None) -> None:
    """Refuse what vllm-ascend's attention takes no notice of."""
    if softcap is not None:
        raise RefusalError(
            "config.json",
            f"attention's scores are capped at {softcap}, and vllm-ascend's attention takes no cap",
            "Serve the model on a CPU",
        )
    asked, own = vllm_config.cache_config.cache_dtype, _name(vllm_config.model_config.dtype)
    if asked not in ("auto", own):
        raise RefusalError(
            f"--kv-cache-dtype {asked}",
            f"vllm-ascend's attention writes keys and values of the model's dtype, {own}, as they are",
            "Serve without --kv-cache-dtype",
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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


def _refuse_sinks(dtype: torch.dtype) -> None:
    """Refuse attention sinks where no kernel takes them."""
    backend = cpu_backend()
    if backend is None or not backend.takes_sinks(dtype):
        raise RefusalError(
            "config.json",
            f"attention has sinks, which no kernel of this vLLM's takes here in {_name(dtype)}",
            "Serve the model on a CPU, with vLLM 0.32, or 0.24 and later in bfloat16",
        )
    if not dispatch.current().by_vllm("paged_attention"):
        raise RefusalError(
            f"MSZOO_KERNELS={dispatch.current().name}",
            "attention sinks are in vLLM's kernel alone",
            "Unset MSZOO_KERNELS",
        )


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
