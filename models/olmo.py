"""OLMo, OLMo 2 and OLMo 3."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec, NormSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class OlmoForCausalLM(DecoderForCausalLM):
    """OLMo: as Hugging Face's ``models/olmo`` defines it; its norms have no weights."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read an ``olmo`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        bias, clip = reader.flag("attention_bias"), reader.optional("clip_qkv", None)
        return reader.pre_norm_decoder(
            NormSpec("layer_norm", 1e-5, weight=False, bias=False),
            reader.mlp(),
            lambda index: reader.attention(index, qkv_bias=bias, o_bias=bias, clip_qkv=clip),
        )


class Olmo2ForCausalLM(DecoderForCausalLM):
    """OLMo 2: as Hugging Face's ``models/olmo2`` defines it; it norms what attention and MLP return."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read an ``olmo2`` or ``olmo3`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        norm, mlp, bias = reader.rms_norm(), reader.mlp(), reader.flag("attention_bias")

        def layer(index: int) -> DecoderLayerSpec:
            attention = reader.attention(
                index, qkv_bias=bias, o_bias=bias, qk_norm=norm, qk_norm_spans_heads=True
            )
            return reader.post_norm_layer(norm, attention, mlp)

        return reader.decoder(layer, norm)


class Olmo3ForCausalLM(Olmo2ForCausalLM):
    """OLMo 3: as Hugging Face's ``models/olmo3`` defines it; some layers have a sliding window."""
