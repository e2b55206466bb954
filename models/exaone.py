"""EXAONE 3 and 3.5."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec
from mszoo.models.publisher import PublisherReader

_NAMES = {
    "num_hidden_layers": "num_layers",
    "hidden_act": "activation_function",
    "rms_norm_eps": "layer_norm_epsilon",
}


class ExaoneForCausalLM(DecoderForCausalLM):
    """EXAONE 3: as its ``modeling_exaone`` defines it; Llama's layers under GPT-2's names."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read an ``exaone`` config."""
        reader = PublisherReader(config, who, _NAMES)
        reader.ignore("attention_dropout", "embed_dropout")
        norm, mlp = reader.rms_norm(), reader.mlp(down_name="c_proj")

        def layer(index: int) -> DecoderLayerSpec:
            return reader.layer(
                reader.attention(index, name="attn.attention", o_name="out_proj"),
                mlp,
                norm_before_attention=norm.named("ln_1"),
                norm_before_mlp=norm.named("ln_2"),
            )

        return reader.decoder(
            layer, norm.named("ln_f"), name="transformer", embedding_name="wte", layers_name="h"
        )
