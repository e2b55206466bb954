"""dots.llm1."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.moe_reader import MoEReader


class Dots1ForCausalLM(DecoderForCausalLM):
    """dots.llm1: as Hugging Face's ``models/dots1`` defines it: Qwen3's attention, DeepSeek-V3's experts."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``dots1`` config."""
        reader = MoEReader(config, who, reference=reference_of(config))
        norm, bias = reader.rms_norm(), reader.flag("attention_bias")
        sparse, mlp, moe = reader.sparse_from(), reader.mlp(), reader.grouped_moe()

        def layer(index: int) -> DecoderLayerSpec:
            attention = reader.attention(index, qkv_bias=bias, o_bias=bias, qk_norm=norm)
            return reader.pre_norm_layer(norm, attention, moe if sparse[index] else mlp)

        return reader.decoder(layer, norm)
