"""OPT: learned positions, and an MLP whose projections are the layer's own."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec, NormSpec, PositionSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class OPTForCausalLM(DecoderForCausalLM):
    """OPT: as Hugging Face's ``models/opt`` defines it, where norms come first (all but OPT-350M)."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read an ``opt`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        reader.ignore("attention_dropout", "dropout")  # of training
        reader.must_be("do_layer_norm_before", True)
        reader.must_be("_remove_final_layer_norm", False)
        reader.must_be("word_embed_proj_dim", reader.hidden_size)
        bias, affine = reader.flag("enable_bias", True), reader.flag("layer_norm_elementwise_affine", True)
        norm = NormSpec("layer_norm", 1e-5, weight=affine, bias=affine)
        mlp = reader.mlp(
            intermediate_size=reader.required("ffn_dim"),
            hidden_act=reader.required("activation_function"),
            gated=False,
            bias=bias,
            name="",
            up_name="fc1",
            down_name="fc2",
        )

        def layer(index: int) -> DecoderLayerSpec:
            attention = reader.attention(
                index,
                head_size=reader.head_size_of_equal_shares(),
                rotary=None,
                qkv_bias=bias,
                o_bias=bias,
                o_name="out_proj",
            )
            return reader.layer(
                attention,
                mlp,
                norm_before_attention=norm.named("self_attn_layer_norm"),
                norm_before_mlp=norm.named("final_layer_norm"),
            )

        positions = PositionSpec(reader.required("max_position_embeddings") + 2, offset=2)
        return reader.decoder(
            layer, norm.named("final_layer_norm"), positions=positions, name="model.decoder"
        )
