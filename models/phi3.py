"""Phi-3 and Phi-4 (dense), whose checkpoints have fused projections."""

from __future__ import annotations

from typing import Any, ClassVar

from mszoo.models.config import DecoderConfig, read_decoder
from mszoo.models.decoder import DecoderForCausalLM


class Phi3ForCausalLM(DecoderForCausalLM):
    """Phi-3: the dense decoder as Hugging Face's ``models/phi3`` defines it."""

    packed_modules_mapping: ClassVar = {"qkv_proj": ("qkv_proj",), "gate_up_proj": ("gate_up_proj",)}

    @staticmethod
    def read_config(config: Any) -> DecoderConfig:
        """Read a ``phi3`` config."""
        return read_decoder(
            config,
            "native.Phi3ForCausalLM",
            qkv_bias=False,
            output_bias=False,
            unused=("original_max_position_embeddings",),  # of the rope type longrope
        )
