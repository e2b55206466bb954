"""Seed-OSS."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class SeedOssForCausalLM(DecoderForCausalLM):
    """Seed-OSS: as Hugging Face's ``models/seed_oss`` defines it."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``seed_oss`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        bias, o_bias = reader.flag("attention_bias"), reader.flag("attention_out_bias")
        return reader.pre_norm_decoder(
            reader.rms_norm(),
            reader.mlp(bias=reader.flag("mlp_bias")),
            lambda index: reader.attention(index, qkv_bias=bias, o_bias=o_bias),
        )
