"""GLM (dense): GLM-4 9B and GLM-Edge."""

from __future__ import annotations

from typing import Any, ClassVar

from mszoo.models.config import DecoderConfig, read_decoder
from mszoo.models.decoder import DecoderForCausalLM


class GlmForCausalLM(DecoderForCausalLM):
    """GLM: the dense decoder as Hugging Face's ``models/glm`` defines it."""

    packed_modules_mapping: ClassVar = {
        "qkv_proj": ("q_proj", "k_proj", "v_proj"),
        "gate_up_proj": ("gate_up_proj",),
    }

    @staticmethod
    def read_config(config: Any) -> DecoderConfig:
        """Read a ``glm`` config."""
        return read_decoder(
            config,
            "native.GlmForCausalLM",
            output_bias=False,
            interleaved_rotary=True,
            unused=("partial_rotary_factor",),  # rope_parameters has it too
        )
