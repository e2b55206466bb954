"""EXAONE 4."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class Exaone4ForCausalLM(DecoderForCausalLM):
    """EXAONE 4: as Hugging Face's ``models/exaone4`` defines it; it norms what attention and MLP return."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``exaone4`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        norm, mlp = reader.rms_norm(), reader.mlp()
        slides = reader.optional("sliding_window", None) is not None

        def layer(index: int) -> DecoderLayerSpec:
            # Where some layers have a window, nothing turns in those that see everything.
            sees_all = slides and reader.sliding_window(index) is None
            rotary = None if sees_all else reader.rotary(index)
            return reader.post_norm_layer(norm, reader.attention(index, qk_norm=norm, rotary=rotary), mlp)

        return reader.decoder(layer, norm)
