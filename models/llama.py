"""Llama 1 to 3, SmolLM and relatives."""

from __future__ import annotations

from typing import Any

from mszoo.models.config import DecoderConfig, read_decoder
from mszoo.models.decoder import DecoderForCausalLM


class LlamaForCausalLM(DecoderForCausalLM):
    """Llama 1 to 3, SmolLM and relatives: the dense decoder as Hugging Face's ``models/llama`` defines it."""

    @staticmethod
    def read_config(config: Any) -> DecoderConfig:
        """Read a ``llama`` config."""
        return read_decoder(config, "native.LlamaForCausalLM", mlp_bias=True)
