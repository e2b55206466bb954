"""From the specs of norms and rotations to the layers."""

from __future__ import annotations

from mszoo.layers.decoder.spec import NormSpec, RotarySpec
from mszoo.layers.norm import GemmaRMSNorm, LayerNorm, Norm, RMSNorm
from mszoo.layers.rotary import RotaryEmbedding


def build_norm(spec: NormSpec, width: int) -> Norm:
    """Build the norm over ``width`` values: [T, width] -> [T, width]."""
    if spec.kind == "rms_norm":
        return RMSNorm(width, spec.eps)
    if spec.kind == "gemma_rms_norm":
        return GemmaRMSNorm(width, spec.eps)
    return LayerNorm(width, spec.eps, weight=spec.weight, bias=spec.bias, offset=spec.offset)


def build_rotary(spec: RotarySpec, head_size: int, num_heads: int, num_kv_heads: int) -> RotaryEmbedding:
    """Build the rotary embedding; see :class:`mszoo.layers.RotaryEmbedding` for the sizes."""
    return RotaryEmbedding(
        head_size,
        num_heads,
        num_kv_heads,
        spec.max_position_embeddings,
        spec.parameters,
        is_neox_style=spec.is_neox_style,
        axes=spec.axes,
    )
