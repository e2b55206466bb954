"""Qwen2 and Qwen2.5."""

from __future__ import annotations

from typing import Any

from mszoo.models.config import DecoderConfig, read_decoder
from mszoo.models.decoder import DecoderForCausalLM


class Qwen2ForCausalLM(DecoderForCausalLM):
    """Qwen2 and Qwen2.5: the dense decoder as Hugging Face's ``models/qwen2`` defines it."""

    @staticmethod
    def read_config(config: Any) -> DecoderConfig:
        """Read a ``qwen2`` config."""
        return read_decoder(config, "native.Qwen2ForCausalLM", qkv_bias=True, output_bias=False)
