"""Phi-MoE (Phi-3.5-MoE, Phi-mini-MoE)."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec, NormSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.moe_reader import MoEReader


class PhiMoEForCausalLM(DecoderForCausalLM):
    """Phi-MoE: as Hugging Face's ``models/phimoe`` defines it; a sparsemixer chooses experts, norms have biases."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``phimoe`` config."""
        reader = MoEReader(config, who, reference=reference_of(config))
        reader.must_be("num_experts_per_tok", 2)  # Hugging Face chooses two whatever it says
        norm, bias = NormSpec("layer_norm", reader.required("rms_norm_eps")), reader.flag("attention_bias")
        moe = reader.moe(
            "num_local_experts",
            intermediate_size=reader.required("intermediate_size"),
            scoring_func="sparsemixer",
            jitter=reader.required("router_jitter_noise"),
            name="block_sparse_moe",
            expert_names=("w1", "w3", "w2"),
        )

        def layer(index: int) -> DecoderLayerSpec:
            return reader.pre_norm_layer(norm, reader.attention(index, qkv_bias=bias, o_bias=bias), moe)

        return reader.decoder(layer, norm, lm_head_bias=reader.flag("lm_head_bias"))
