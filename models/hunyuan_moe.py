"""Hunyuan with experts (Hunyuan-A13B)."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.moe_reader import MoEReader


class HunYuanMoEV1ForCausalLM(DecoderForCausalLM):
    """Hunyuan with experts: as Hugging Face's ``models/hunyuan_v1_moe`` defines it."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``hunyuan_v1_moe`` config."""
        reader = MoEReader(config, who, reference=reference_of(config))
        norm, bias = reader.rms_norm(), reader.flag("attention_bias")
        chosen = reader.required("moe_topk")  # of each layer, or of all
        per_layer = chosen if isinstance(chosen, list) else [chosen] * reader.num_layers
        if len(per_layer) < reader.num_layers:
            reader.refuse("moe_topk", chosen)
        width = reader.required("intermediate_size")

        def layer(index: int) -> DecoderLayerSpec:
            attention = reader.attention(
                index,
                qkv_bias=bias,
                o_bias=bias,
                qk_norm=norm,
                qk_norm_after_rotary=True,
                q_norm_name="query_layernorm",
                k_norm_name="key_layernorm",
            )
            moe = reader.moe(
                "num_experts",
                top_k=per_layer[index],
                intermediate_size=width,
                router_name="gate.wg",
                shared=reader.mlp(name="shared_mlp"),
            )
            return reader.pre_norm_layer(norm, attention, moe)

        return reader.decoder(layer, norm)
