"""MiniCPM (1, 2 and 4, dense)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec
from mszoo.models.publisher import PublisherReader


class MiniCPMForCausalLM(DecoderForCausalLM):
    """MiniCPM: as its ``modeling_minicpm`` defines it; Llama's layers, with embeddings, sums and logits scaled."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``minicpm`` config."""
        reader = PublisherReader(config, who)
        reader.must_be("attention_bias", False)
        reader.must_be("num_experts", 0)
        reader.ignore("mup_denominator")  # of its draft models
        norm, mlp = reader.rms_norm(), reader.mlp()
        multiplier = reader.optional("scale_depth", 1) / reader.num_layers**0.5

        def layer(index: int) -> DecoderLayerSpec:
            attention = reader.attention(index, head_size=reader.head_size_of_equal_shares())
            return replace(reader.pre_norm_layer(norm, attention, mlp), residual_multiplier=multiplier)

        return reader.decoder(
            layer,
            norm,
            embedding_multiplier=reader.optional("scale_emb", 1),
            scales_lookup=True,
            logit_scale=reader.optional("dim_model_base", 1) / reader.hidden_size,
        )
