"""GLM (GLM-4 9B, GLM-Edge) and GLM-4 (0414), dense."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class GlmForCausalLM(DecoderForCausalLM):
    """GLM: as Hugging Face's ``models/glm`` defines it; a part of each head turns, by pairs."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``glm`` config."""
        return _read(config, who, norms_outputs=False)


class Glm4ForCausalLM(DecoderForCausalLM):
    """GLM-4: as Hugging Face's ``models/glm4`` defines it; it norms what attention and MLP return too."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``glm4`` config."""
        return _read(config, who, norms_outputs=True)


def _read(config: Any, who: str, *, norms_outputs: bool) -> DecoderSpec:
    reader = DecoderReader(config, who, reference=reference_of(config))
    return read_glm(reader, norms_outputs=norms_outputs, qkv_bias=reader.flag("attention_bias"))


def read_glm(reader: DecoderReader, *, norms_outputs: bool, **attention_fields: Any) -> DecoderSpec:
    """Read what GLMs have in common.

    Args:
        reader: of the config.
        norms_outputs: whether what attention and MLP return is normed too.
        attention_fields: of the spec of each attention.
    """
    norm, mlp = reader.rms_norm(), reader.mlp()

    def layer(index: int) -> DecoderLayerSpec:
        attention = reader.attention(index, is_neox_style=False, **attention_fields)
        made = reader.pre_norm_layer(norm, attention, mlp)
        if not norms_outputs:
            return made
        return replace(
            made,
            norm_after_attention=norm.named("post_self_attn_layernorm"),
            norm_after_mlp=norm.named("post_mlp_layernorm"),
        )

    return reader.decoder(layer, norm)
