"""Phi-3 and Phi-4 (dense), whose checkpoints have fused projections."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class Phi3ForCausalLM(DecoderForCausalLM):
    """Phi-3: as Hugging Face's ``models/phi3`` defines it."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``phi3`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        return reader.pre_norm_decoder(reader.rms_norm(), reader.mlp(), reader.attention)
