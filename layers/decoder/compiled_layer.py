"""A decoder layer with plain attention as one compiled call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.decoder import path
from mszoo.layers.decoder.compiled_parts import Parts
from mszoo.layers.decoder.spec import AttentionSpec
from mszoo.layers.seam import attention_context, cpu_backend

import mindspore as ms

if TYPE_CHECKING:
    from mszoo.layers.decoder.layer import DecoderLayer


class CompiledLayer:
    """Runs a layer by kernels/csrc/decoder_layer.h.

    Args:
        layer: a layer that nothing hinders.

    Attributes:
        parts: what it is made of.
    """

    def __init__(self, layer: DecoderLayer) -> None:
        spec, attention = layer.spec, layer.attention
        of_attention = attention.spec
        assert isinstance(of_attention, AttentionSpec)
        attn, impl = attention.attn, attention.attn.impl
        backend = cpu_backend()
        assert backend is not None  # else there was an obstacle
        self._isa_of = backend.attention_isa
        window = backend.sliding_window_of(impl)
        parts = Parts()
        parts.integers |= {
            "num_heads": attn.num_heads,
            "num_kv_heads": attn.num_kv_heads,
            "head_size": attn.head_size,
            "sliding_window": -1 if window is None else window,
            "is_neox_style": of_attention.rotary is None or of_attention.rotary.is_neox_style,
            "qk_norm_after_rotary": of_attention.qk_norm_after_rotary,
            "parallel_residual": spec.parallel_residual,
            "norms_sums": spec.norms_sums,
            "is_causal": of_attention.is_causal,
        }
        parts.floats |= {
            "scale": impl.scale,
            "logits_soft_cap": float(impl.logits_soft_cap),
            "residual_multiplier": spec.residual_multiplier,
            "clip_qkv": of_attention.clip_qkv or 0.0,
        }
        parts.words["activation"] = "" if layer.has_experts else layer.mlp.act_fn.op
        parts.add_norms(zip(_NORMS, (*layer.norms, *(attention.qk_norms or ())), strict=False))
        if spec.norm_beside is not None:
            parts.add_norms([("norm_beside", layer.get_submodule(spec.norm_beside.name))])
        parts.add_projections(zip(_PROJECTIONS, path.projections(layer), strict=False))
        if attention.rotary_emb is not None:
            parts.tensors["cos_sin_cache"] = attention.rotary_emb.cos_sin_cache
        self.parts, self._attention = parts, attn.layer_name
        self._has_experts, self._carries = layer.has_experts, layer.carries_residual
        self._caches = of_attention.is_causal
        self._norms_before_mlp = spec.norm_before_mlp is not None
        self._run = parts.make("DecoderLayer").run

    def __call__(
        self, positions: ms.Tensor, x: ms.Tensor, residual: ms.Tensor | None, beside: ms.Tensor | None = None
    ) -> tuple[ms.Tensor, ms.Tensor | None]:
        """Run the layer; see :meth:`mszoo.layers.decoder.compiled.CompiledPath.__call__`."""
        metadata, attn, kv_cache, slot_mapping = attention_context(self._attention)
        if not self._caches:
            kv_cache, slot_mapping = metadata.encoder_cache, metadata.slot_mapping
        hidden = to_torch(x)
        stream = None
        # What experts get lies beside the stream.
        if self._carries or self._has_experts:
            stream = torch.empty_like(hidden) if residual is None else to_torch(residual)
        self._run(
            hidden,
            stream,
            residual is None,
            to_torch(positions),
            None if beside is None else to_torch(beside),
            kv_cache,
            slot_mapping,
            metadata.query_start_loc,
            metadata.seq_lens,
            metadata.block_table,
            metadata.scheduler_metadata,
            metadata.num_actual_tokens,
            self._isa_of(metadata, attn),
        )
        if stream is None:
            return x, None
        stream_view = to_mindspore(stream) if residual is None else residual
        if self._has_experts and not self._norms_before_mlp:
            return stream_view, stream_view
        return x, stream_view


#: What the compiled layer calls its norms and projections, in the order of a layer's.
_NORMS = (
    "norm_before_attention",
    "norm_after_attention",
    "norm_before_mlp",
    "norm_after_mlp",
    "q_norm",
    "k_norm",
)
_PROJECTIONS = ("qkv_proj", "o_proj", "up_proj", "down_proj")
