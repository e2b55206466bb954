"""Reads multi-head latent attention (DeepSeek-V2 and later)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mszoo.layers.decoder.spec import LatentAttentionSpec, RotarySpec
from mszoo.models.reader import DecoderReader

#: Hugging Face's, of the norms of what low ranks compute, whatever ``rms_norm_eps`` says.
_NORM_EPS = 1e-6


def latent_attention(reader: DecoderReader, *, is_neox_style: bool) -> LatentAttentionSpec:
    """Return the attention of all layers.

    Args:
        reader: of the config.
        is_neox_style: as of :class:`mszoo.layers.decoder.spec.RotarySpec`.

    Raises:
        RefusalError: the projections have biases, or a part of what should turn doesn't.
    """
    reader.must_be("attention_bias", False)
    heads, rotated = reader.required("num_attention_heads"), reader.required("qk_rope_head_dim")
    for name, only in (("num_key_value_heads", heads), ("head_dim", rotated)):
        reader.must_be(name, only)
    rope = reader.rope(reader.required("rope_parameters"))
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        reader.refuse("partial_rotary_factor", rope["partial_rotary_factor"])
    size = reader.required("qk_nope_head_dim")
    return LatentAttentionSpec(
        heads,
        q_lora_rank=reader.optional("q_lora_rank", None),
        kv_lora_rank=reader.required("kv_lora_rank"),
        qk_nope_head_dim=size,
        qk_rope_head_dim=rotated,
        v_head_dim=reader.required("v_head_dim"),
        scale=(size + rotated) ** -0.5 * _stretched(rope) ** 2,
        norm_eps=_NORM_EPS,
        rotary=RotarySpec(rope, reader.required("max_position_embeddings"), is_neox_style),
    )


def _stretched(rope: Mapping[str, Any]) -> float:
    """Return by what scores grow on both sides where positions are stretched (yarn's ``mscale_all_dim``)."""
    factor, grows = rope.get("factor", 1.0), rope.get("mscale_all_dim", 0.0)
    return 0.1 * grows * math.log(factor) + 1.0 if rope["rope_type"] != "default" and factor > 1.0 else 1.0
