"""GLM (GLM-4 9B, GLM-Edge) and GLM-4 (0414), dense."""

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
        return _read(config, "native.GlmForCausalLM", sandwich_norms=False)


class Glm4ForCausalLM(GlmForCausalLM):
    """GLM-4: as Hugging Face's ``models/glm4`` defines it; it norms what attention and MLP return too."""

    @staticmethod
    def read_config(config: Any) -> DecoderConfig:
        """Read a ``glm4`` config."""
        return _read(config, "native.Glm4ForCausalLM", sandwich_norms=True)


def _read(config: Any, who: str, *, sandwich_norms: bool) -> DecoderConfig:
    return read_decoder(
        config,
        who,
        output_bias=False,
        interleaved_rotary=True,
        sandwich_norms=sandwich_norms,
        unused=("partial_rotary_factor",),  # rope_parameters has it too
    )
