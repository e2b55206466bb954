"""Solar Open."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.moe_reader import MoEReader


class SolarOpenForCausalLM(DecoderForCausalLM):
    """Solar Open: as Hugging Face's ``models/solar_open`` defines it; every layer has experts."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``solar_open`` config."""
        reader = MoEReader(config, who, reference=reference_of(config))
        reader.ignore("intermediate_size")  # of no layer
        norm, bias, moe = reader.rms_norm(), reader.flag("attention_bias"), reader.grouped_moe()

        def layer(index: int) -> DecoderLayerSpec:
            return reader.pre_norm_layer(norm, reader.attention(index, qkv_bias=bias), moe)

        return reader.decoder(layer, norm)
