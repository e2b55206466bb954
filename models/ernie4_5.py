"""Ernie 4.5 (dense)."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class Ernie4_5ForCausalLM(DecoderForCausalLM):
    """Ernie 4.5: as Hugging Face's ``models/ernie4_5`` defines it; heads turn by pairs."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``ernie4_5`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        bias = reader.flag("use_bias")
        return reader.pre_norm_decoder(
            reader.rms_norm(),
            reader.mlp(bias=bias),
            lambda index: reader.attention(index, qkv_bias=bias, o_bias=bias, is_neox_style=False),
        )
