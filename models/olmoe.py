"""OLMoE and FlexOlmo."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import AttentionSpec, DecoderLayerSpec, DecoderSpec, MoESpec
from mszoo.models.config_keys import reference_of
from mszoo.models.moe_reader import MoEReader


class OlmoeForCausalLM(DecoderForCausalLM):
    """OLMoE: as Hugging Face's ``models/olmoe`` defines it; it norms all queries, and all keys, together."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read an ``olmoe`` config."""
        reader = MoEReader(config, who, reference=reference_of(config))
        reader.must_be("sliding_window")  # what it does there depends on the kernel that attends
        norm, moe = reader.rms_norm(), _moe(reader)
        clip = reader.optional("clip_qkv", None)
        return reader.pre_norm_decoder(norm, moe, lambda index: _attention(reader, index, clip_qkv=clip))


class FlexOlmoForCausalLM(DecoderForCausalLM):
    """FlexOlmo: as Hugging Face's ``models/flex_olmo`` defines it; it norms what attention and experts return."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``flex_olmo`` config."""
        reader = MoEReader(config, who, reference=reference_of(config))
        norm, moe = reader.rms_norm(), _moe(reader)

        def layer(index: int) -> DecoderLayerSpec:
            return reader.post_norm_layer(norm, _attention(reader, index), moe)

        return reader.decoder(layer, norm)


def _moe(reader: MoEReader) -> MoESpec:
    return reader.moe(
        "num_experts",
        intermediate_size=reader.required("intermediate_size"),
        renormalize=reader.flag("norm_topk_prob"),
    )


def _attention(reader: MoEReader, index: int, **changes: Any) -> AttentionSpec:
    bias = reader.flag("attention_bias")
    norm = reader.rms_norm()
    return reader.attention(
        index, qkv_bias=bias, o_bias=bias, qk_norm=norm, qk_norm_spans_heads=True, **changes
    )
