"""Mistral."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class MistralForCausalLM(DecoderForCausalLM):
    """Mistral: as Hugging Face's ``models/mistral`` defines it."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``mistral`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        norm, mlp = reader.rms_norm(), reader.mlp()

        def layer(index: int) -> DecoderLayerSpec:
            return reader.pre_norm_layer(norm, reader.attention(index), mlp)

        return reader.decoder(layer, norm)
