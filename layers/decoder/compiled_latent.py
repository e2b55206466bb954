"""A decoder layer with multi-head latent attention as compiled calls.

It is one where every request of a step decodes a token. Else there are two, around vLLM's attention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.decoder import path
from mszoo.layers.decoder.compiled_parts import Parts
from mszoo.layers.decoder.spec import LatentAttentionSpec
from mszoo.layers.seam import attention_context, cpu_backend

import mindspore as ms

if TYPE_CHECKING:
    from mszoo.layers.decoder.layer import DecoderLayer


class CompiledLatentLayer:
    """Runs a layer by kernels/csrc/latent_layer.h.

    Args:
        layer: a layer that nothing hinders.

    Attributes:
        parts: what it is made of.
    """

    def __init__(self, layer: DecoderLayer) -> None:
        attention = layer.attention
        spec = attention.spec
        assert isinstance(spec, LatentAttentionSpec) and attention.rotary_emb is not None
        parts = Parts()
        parts.integers |= {
            "num_heads": attention.heads,
            "kv_lora_rank": spec.kv_lora_rank,
            "qk_nope_head_dim": spec.qk_nope_head_dim,
            "qk_rope_head_dim": spec.qk_rope_head_dim,
            "is_neox_style": spec.rotary.is_neox_style,
        }
        parts.floats["scale"] = attention.attn.impl.scale
        parts.words["activation"] = "" if layer.has_experts else layer.mlp.act_fn.op
        before_attention, _, before_mlp, _ = layer.norms
        queries, compressed = attention.low_rank_norms
        parts.add_norms(
            (
                ("norm_before_attention", before_attention),
                ("norm_before_mlp", before_mlp),
                ("q_a_layernorm", queries),
                ("kv_a_layernorm", compressed),
            )
        )
        names = ("q_proj",) if queries is None else ("q_a_proj", "q_proj")
        names = (*names, "kv_a_proj_with_mqa", "o_proj", "up_proj", "down_proj")
        parts.add_projections(zip(names, path.projections(layer), strict=False))
        parts.tensors["cos_sin_cache"] = attention.rotary_emb.cos_sin_cache
        self.parts, self._attend = parts, attention.attn
        self._width = attention.heads * spec.v_head_dim
        self._sums = not (layer.has_experts or layer.carries_residual)
        compiled_layer = parts.make("LatentLayer")
        self._before, self._decode, self._after = (
            compiled_layer.before,
            compiled_layer.decode,
            compiled_layer.after,
        )
        backend = cpu_backend()
        assert backend is not None  # else there was an obstacle
        self._plain_decodes = backend.plain_decodes

    def __call__(
        self, positions: ms.Tensor, x: ms.Tensor, residual: ms.Tensor | None, _: ms.Tensor | None = None
    ) -> tuple[ms.Tensor, ms.Tensor | None]:
        """Run the layer; see :meth:`mszoo.layers.decoder.compiled.CompiledPath.__call__`."""
        hidden = to_torch(x)
        stream = torch.empty_like(hidden) if residual is None else to_torch(residual)
        given = hidden, stream, residual is None, to_torch(positions)
        tokens = hidden.shape[0]
        metadata, attn, kv_cache, slots = attention_context(self._attend.layer_name)
        requests = self._plain_decodes(attn, metadata, tokens)
        if requests is None:
            query, compressed, key = self._before(*given)
            shape = torch.Size([tokens, self._width])
            self._after(self._attend(query, compressed, key, output_shape=shape), hidden, stream)
        else:
            self._decode(*given, attn.W_UK_T, attn.W_UV, kv_cache, slots, *requests)
        if self._sums:
            hidden.add_(stream)
            return x, None
        return x, to_mindspore(stream) if residual is None else residual
