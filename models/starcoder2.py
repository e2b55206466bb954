"""StarCoder2."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec, NormSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class Starcoder2ForCausalLM(DecoderForCausalLM):
    """StarCoder2: as Hugging Face's ``models/starcoder2`` defines it."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``starcoder2`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        norm, bias = NormSpec("layer_norm", reader.required("norm_epsilon")), reader.flag("use_bias", True)
        mlp = reader.mlp(gated=False, bias=bias, up_name="c_fc", down_name="c_proj")

        def layer(index: int) -> DecoderLayerSpec:
            attention = reader.attention(index, qkv_bias=bias, o_bias=bias)
            return reader.pre_norm_layer(norm, attention, mlp)

        return reader.decoder(layer, norm)
