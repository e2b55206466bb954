"""GLM-4 (dense, 0414)."""

from __future__ import annotations

from typing import Any, ClassVar

from mszoo.models.config import DecoderConfig, read_decoder
from mszoo.models.decoder import DecoderForCausalLM


class Glm4ForCausalLM(DecoderForCausalLM):
    """GLM-4: the dense decoder as Hugging Face's ``models/glm4`` defines it."""

    packed_modules_mapping: ClassVar = {
        "qkv_proj": ("q_proj", "k_proj", "v_proj"),
        "gate_up_proj": ("gate_up_proj",),
    }

    @staticmethod
    def read_config(config: Any) -> DecoderConfig:
        """Read a ``glm4`` config."""
        return read_decoder(
            config,
            "native.Glm4ForCausalLM",
            output_bias=False,
            interleaved_rotary=True,
            sandwich_norms=True,
            unused=("partial_rotary_factor",),  # rope_parameters has it too
        )
