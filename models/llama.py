"""Llama 1 to 3, SmolLM and relatives; Code World Model."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class LlamaForCausalLM(DecoderForCausalLM):
    """Llama 1 to 3, SmolLM and relatives: as Hugging Face's ``models/llama`` defines it."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``llama`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        bias, mlp = reader.flag("attention_bias"), reader.mlp(bias=reader.flag("mlp_bias"))
        return reader.pre_norm_decoder(
            reader.rms_norm(), mlp, lambda index: reader.attention(index, qkv_bias=bias, o_bias=bias)
        )


class CwmForCausalLM(LlamaForCausalLM):
    """Code World Model: as Hugging Face's ``models/cwm`` defines it; some layers have a sliding window."""
