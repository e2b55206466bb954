"""Orion (14B)."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec, NormSpec
from mszoo.models.publisher import PublisherReader


class OrionForCausalLM(DecoderForCausalLM):
    """Orion: as its ``modeling_orion`` defines it; Llama's layers with LayerNorm."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read an ``orion`` config."""
        reader = PublisherReader(config, who)
        reader.must_be("attention_bias", False)
        norm, mlp = NormSpec("layer_norm", reader.required("rms_norm_eps")), reader.mlp()

        def layer(index: int) -> DecoderLayerSpec:
            attention = reader.attention(index, head_size=reader.head_size_of_equal_shares())
            return reader.pre_norm_layer(norm, attention, mlp)

        return reader.decoder(layer, norm)
