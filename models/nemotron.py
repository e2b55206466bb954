"""Decoders with an ungated MLP: Nemotron (Minitron), Arcee and Jais 2."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderSpec, NormSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class ArceeForCausalLM(DecoderForCausalLM):
    """Arcee: as Hugging Face's ``models/arcee`` defines it."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a config of one of these."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        bias = reader.flag("attention_bias")
        return reader.pre_norm_decoder(
            cls.norm(reader),
            reader.mlp(gated=False, bias=reader.flag("mlp_bias"), up_name="up_proj"),
            lambda index: reader.attention(index, qkv_bias=bias, o_bias=bias),
        )

    @classmethod
    def norm(cls, reader: DecoderReader) -> NormSpec:
        """Return what norms the stream."""
        return reader.rms_norm()


class Jais2ForCausalLM(ArceeForCausalLM):
    """Jais 2: as Hugging Face's ``models/jais2`` defines it."""

    @classmethod
    def norm(cls, reader: DecoderReader) -> NormSpec:
        """Return what norms the stream."""
        return NormSpec("layer_norm", reader.required("layer_norm_eps"))


class NemotronForCausalLM(ArceeForCausalLM):
    """Nemotron: as Hugging Face's ``models/nemotron`` defines it; a part of each head turns."""

    @classmethod
    def norm(cls, reader: DecoderReader) -> NormSpec:
        """Return what norms the stream: its weights are offsets from one."""
        return NormSpec("layer_norm", reader.required("norm_eps"), offset=1.0)
