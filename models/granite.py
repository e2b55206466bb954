"""Granite (dense)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class GraniteForCausalLM(DecoderForCausalLM):
    """Granite: as Hugging Face's ``models/granite`` defines it; multipliers scale what a Llama leaves."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``granite`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        bias, mlp = reader.flag("attention_bias"), reader.mlp(bias=reader.flag("mlp_bias"))
        norm, scale = reader.rms_norm(), reader.required("attention_multiplier")
        multiplier = reader.required("residual_multiplier")

        def layer(index: int) -> DecoderLayerSpec:
            attention = reader.attention(index, qkv_bias=bias, o_bias=bias, scale=scale)
            return replace(reader.pre_norm_layer(norm, attention, mlp), residual_multiplier=multiplier)

        return reader.decoder(
            layer,
            norm,
            embedding_multiplier=reader.required("embedding_multiplier"),
            logit_scale=1 / reader.required("logits_scaling"),
        )
