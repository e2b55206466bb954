"""From the specs of norms and rotations to the layers."""

from __future__ import annotations

from mszoo.layers.decoder.spec import NormSpec, RotarySpec
from mszoo.layers.norm import GemmaRMSNorm, LayerNorm, Norm, RMSNorm, RMSNormOfRanks
from mszoo.layers.rotary import RotaryEmbedding
from mszoo.registry.errors import RefusalError


def build_norm(spec: NormSpec, width: int) -> Norm:
    """Build the norm over ``width`` values: [T, width] -> [T, width]."""
    if spec.kind == "rms_norm":
        return RMSNorm(width, spec.eps)
    if spec.kind == "gemma_rms_norm":
        return GemmaRMSNorm(width, spec.eps)
    return LayerNorm(width, spec.eps, weight=spec.weight, bias=spec.bias, offset=spec.offset)


def build_norm_of_ranks(spec: NormSpec, width: int, parts: int, copies: int) -> Norm:
    """Build the norm over rows of ``parts`` times ``width`` values, of which each rank has ``width``.

    Args:
        spec: the norm.
        width: of a rank's part: [T, width] -> [T, width].
        parts: how many make a row.
        copies: how many ranks, one after the other, have the same part.

    Raises:
        RefusalError: ranks can't compute a norm of its kind together.
    """
    if parts == 1:
        return build_norm(spec, width)
    if spec.kind != "rms_norm":
        raise RefusalError(
            "config.json",
            f"queries and keys have a {spec.kind} over all heads, which ranks don't compute together",
            "Serve the model without --tensor-parallel-size",
        )
    return RMSNormOfRanks(width, spec.eps, parts, copies)


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
