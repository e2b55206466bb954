"""Qwen2 and Qwen2.5."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class Qwen2ForCausalLM(DecoderForCausalLM):
    """Qwen2 and Qwen2.5: as Hugging Face's ``models/qwen2`` defines it."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``qwen2`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        return reader.pre_norm_decoder(
            reader.rms_norm(), reader.mlp(), lambda index: reader.attention(index, qkv_bias=True)
        )
