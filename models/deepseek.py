"""DeepSeek-V2 and V3 (R1), and what has V3's architecture: Moonlight, Kimi-K2."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec, MoESpec
from mszoo.models.config_keys import reference_of
from mszoo.models.latent import latent_attention
from mszoo.models.moe_reader import MoEReader


class DeepseekV2ForCausalLM(DecoderForCausalLM):
    """DeepSeek-V2: as Hugging Face's ``models/deepseek_v2`` defines it; groups by their best expert."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``deepseek_v2`` config."""
        reader = MoEReader(config, who, reference=reference_of(config))
        reader.must_be("mlp_bias", False)
        method = reader.required("topk_method")
        if method not in ("greedy", "group_limited_greedy"):
            reader.refuse("topk_method", method)
        reader.ignore("n_group", "topk_group")  # where there are no groups
        read_groups = reader.required if method == "group_limited_greedy" else lambda _: 1
        moe = reader.moe(
            "n_routed_experts",
            renormalize=False,
            routed_scaling_factor=reader.required("routed_scaling_factor"),
            num_expert_group=read_groups("n_group"),
            topk_group=read_groups("topk_group"),
            shared=reader.shared_experts("n_shared_experts"),
        )
        return _read(reader, moe, is_neox_style=False)


class DeepseekV3ForCausalLM(DecoderForCausalLM):
    """DeepSeek-V3: as Hugging Face's ``models/deepseek_v3`` defines it."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``deepseek_v3`` config."""
        reader = MoEReader(config, who, reference=reference_of(config))
        interleaved = reader.flag("rope_interleave", True)
        return _read(reader, reader.grouped_moe(), is_neox_style=not interleaved)


def _read(reader: MoEReader, moe: MoESpec, *, is_neox_style: bool) -> DecoderSpec:
    norm, mlp, sparse = reader.rms_norm(), reader.mlp(), reader.sparse_from()
    attention = latent_attention(reader, is_neox_style=is_neox_style)

    def layer(index: int) -> DecoderLayerSpec:
        return reader.pre_norm_layer(norm, attention, moe if sparse[index] else mlp)

    return reader.decoder(layer, norm, unserved=reader.prediction_tensors())
