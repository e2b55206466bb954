"""XVERSE (7B, 13B, 65B)."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec
from mszoo.models.publisher import PublisherReader


class XverseForCausalLM(DecoderForCausalLM):
    """XVERSE: as its ``modeling_xverse`` defines it; Llama's layers without biases."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read an ``xverse`` config."""
        reader = PublisherReader(config, who)
        reader.ignore("max_tokenizer_truncation")
        norm, mlp = reader.rms_norm(), reader.mlp()

        def layer(index: int) -> DecoderLayerSpec:
            attention = reader.attention(index, head_size=reader.head_size_of_equal_shares())
            return reader.pre_norm_layer(norm, attention, mlp)

        return reader.decoder(layer, norm)
