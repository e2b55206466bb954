"""Mistral."""

from __future__ import annotations

from typing import Any

from mszoo.models.config import DecoderConfig, read_decoder
from mszoo.models.decoder import DecoderForCausalLM


class MistralForCausalLM(DecoderForCausalLM):
    """Mistral: the dense decoder as Hugging Face's ``models/mistral`` defines it."""

    @staticmethod
    def read_config(config: Any) -> DecoderConfig:
        """Read a ``mistral`` config."""
        return read_decoder(config, "native.MistralForCausalLM", qkv_bias=False, output_bias=False)
