"""Qwen3 (dense)."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class Qwen3ForCausalLM(DecoderForCausalLM):
    """Qwen3 (dense): as Hugging Face's ``models/qwen3`` defines it; it norms queries and keys of each head."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``qwen3`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        norm, mlp, bias = reader.rms_norm(), reader.mlp(), reader.flag("attention_bias")

        def layer(index: int) -> DecoderLayerSpec:
            attention = reader.attention(index, qkv_bias=bias, o_bias=bias, qk_norm=norm)
            return reader.pre_norm_layer(norm, attention, mlp)

        return reader.decoder(layer, norm)
