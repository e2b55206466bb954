"""MiniCPM (1 to 4, dense)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.latent import latent_attention
from mszoo.models.publisher import PublisherReader
from mszoo.models.reader import DecoderReader


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


class MiniCPM3ForCausalLM(DecoderForCausalLM):
    """MiniCPM3: as Hugging Face's ``models/minicpm3`` defines it; MiniCPM's scales and latent attention."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``minicpm3`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        reader.must_be("mlp_bias", False)
        norm, mlp = reader.rms_norm(), reader.mlp()
        attention = latent_attention(reader, is_neox_style=True)
        multiplier = reader.required("scale_depth") / reader.num_layers**0.5

        def layer(index: int) -> DecoderLayerSpec:
            return replace(reader.pre_norm_layer(norm, attention, mlp), residual_multiplier=multiplier)

        return reader.decoder(
            layer,
            norm,
            embedding_multiplier=reader.required("scale_emb"),
            scales_lookup=True,
            logit_scale=reader.required("dim_model_base") / reader.hidden_size,
        )
