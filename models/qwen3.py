"""Qwen3 (dense)."""

from __future__ import annotations

from typing import Any

from mszoo.models.config import DecoderConfig, read_decoder
from mszoo.models.decoder import DecoderForCausalLM


class Qwen3ForCausalLM(DecoderForCausalLM):
    """Qwen3 (dense): the dense decoder as Hugging Face's ``models/qwen3`` defines it."""

    @staticmethod
    def read_config(config: Any) -> DecoderConfig:
        """Read a ``qwen3`` config."""
        return read_decoder(config, "native.Qwen3ForCausalLM", qk_norm=True)
