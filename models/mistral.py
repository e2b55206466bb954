"""Mistral and Ministral."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class MistralForCausalLM(DecoderForCausalLM):
    """Mistral: as Hugging Face's ``models/mistral`` defines it."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``mistral`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        return reader.pre_norm_decoder(reader.rms_norm(), reader.mlp(), reader.attention)


class MinistralForCausalLM(MistralForCausalLM):
    """Ministral 8B: as Hugging Face's ``models/ministral`` defines it; some layers have a sliding window."""
