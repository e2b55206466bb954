"""Helium."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class HeliumForCausalLM(DecoderForCausalLM):
    """Helium: as Hugging Face's ``models/helium`` defines it; heads turn by pairs."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``helium`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        # Its output projection is as wide as the stream.
        reader.must_be("head_dim", reader.hidden_size // reader.required("num_attention_heads"))
        bias, mlp = reader.flag("attention_bias"), reader.mlp(bias=reader.flag("mlp_bias"))
        return reader.pre_norm_decoder(
            reader.rms_norm(),
            mlp,
            lambda index: reader.attention(index, qkv_bias=bias, is_neox_style=False),
        )
