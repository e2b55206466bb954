"""Granite-MoE (Granite 3 MoE, PowerMoE), and the one with shared experts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.moe_reader import MoEReader


class GraniteMoeForCausalLM(DecoderForCausalLM):
    """Granite-MoE: as Hugging Face's ``models/granitemoe`` defines it; multipliers everywhere."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``granitemoe`` or ``granitemoeshared`` config."""
        reader = MoEReader(config, who, reference=reference_of(config))
        norm, bias = reader.rms_norm(), reader.flag("attention_bias")
        moe = reader.moe(
            "num_local_experts",
            intermediate_size=reader.required("intermediate_size"),
            name="block_sparse_moe",
            router_name="router.layer",
            stacked_names=("input_linear.weight", "output_linear.weight"),
        )
        width = reader.optional("shared_intermediate_size", 0)
        shared = reader.mlp(
            intermediate_size=width, name="shared_mlp", up_name="input_linear", down_name="output_linear"
        )

        def layer(index: int) -> DecoderLayerSpec:
            scale = reader.required("attention_multiplier")
            attention = reader.attention(index, qkv_bias=bias, o_bias=bias, scale=scale)
            return replace(
                reader.pre_norm_layer(norm, attention, moe),
                residual_multiplier=reader.required("residual_multiplier"),
                shared_mlp=shared if width else None,
            )

        return reader.decoder(
            layer,
            norm,
            embedding_multiplier=reader.required("embedding_multiplier"),
            logit_scale=1.0 / reader.required("logits_scaling"),
        )


class GraniteMoeSharedForCausalLM(GraniteMoeForCausalLM):
    """Granite-MoE as Hugging Face's ``models/granitemoeshared`` defines it: an MLP beside the experts."""
