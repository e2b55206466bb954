"""Llama 1 to 3, SmolLM and relatives."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class LlamaForCausalLM(DecoderForCausalLM):
    """Llama 1 to 3, SmolLM and relatives: as Hugging Face's ``models/llama`` defines it."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``llama`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        norm, bias = reader.rms_norm(), reader.flag("attention_bias")
        mlp = reader.mlp(bias=reader.flag("mlp_bias"))

        def layer(index: int) -> DecoderLayerSpec:
            return reader.pre_norm_layer(norm, reader.attention(index, qkv_bias=bias, o_bias=bias), mlp)

        return reader.decoder(layer, norm)
