"""Qwen3 (dense)."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class Qwen3ForCausalLM(DecoderForCausalLM):
    """Qwen3: as Hugging Face's ``models/qwen3`` defines it."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``qwen3`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        norm, bias = reader.rms_norm(), reader.flag("attention_bias")
        return reader.pre_norm_decoder(
            norm,
            reader.mlp(),
            lambda index: reader.attention(index, qkv_bias=bias, o_bias=bias, qk_norm=norm),
        )
