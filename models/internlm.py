"""InternLM 2 (and 2.5) and InternLM 3."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec, QKVLayout
from mszoo.models.publisher import PublisherReader


class InternLM2ForCausalLM(DecoderForCausalLM):
    """InternLM 2: as its ``modeling_internlm2`` defines it; rows come in groups, one for each key/value head."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read an ``internlm2`` config."""
        reader = PublisherReader(config, who)
        norm, bias = reader.rms_norm(), reader.flag("bias")
        mlp = reader.mlp(name="feed_forward", down_name="w2")
        kv_heads = reader.optional("num_key_value_heads", reader.required("num_attention_heads"))

        def layer(index: int) -> DecoderLayerSpec:
            attention = reader.attention(
                index,
                head_size=reader.head_size_of_equal_shares(),
                qkv_bias=bias,
                o_bias=bias,
                name="attention",
                qkv_name="wqkv",
                o_name="wo",
                qkv_layout=QKVLayout(kv_heads),
            )
            return reader.layer(
                attention,
                mlp,
                norm_before_attention=norm.named("attention_norm"),
                norm_before_mlp=norm.named("ffn_norm"),
            )

        return reader.decoder(layer, norm, embedding_name="tok_embeddings", lm_head_name="output")


class InternLM3ForCausalLM(DecoderForCausalLM):
    """InternLM 3: as its ``modeling_internlm3`` defines it; Llama's layers, with two flags for biases."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read an ``internlm3`` config."""
        reader = PublisherReader(config, who)
        norm, bias, qkv_bias = reader.rms_norm(), reader.flag("bias"), reader.flag("qkv_bias")
        mlp = reader.mlp(bias=bias)
        return reader.pre_norm_decoder(
            norm, mlp, lambda index: reader.attention(index, qkv_bias=qkv_bias, o_bias=bias)
        )
