"""ChatGLM2, ChatGLM3 and GLM-4 9B in the format that their publisher gave them first."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec, NormSpec, RotarySpec
from mszoo.models.publisher import PublisherReader

_NAMES = {
    "num_hidden_layers": "num_layers",
    "intermediate_size": "ffn_hidden_size",
    "num_key_value_heads": "multi_query_group_num",
    "vocab_size": "padded_vocab_size",
    "max_position_embeddings": "seq_length",
}
#: Flags of other models than those published, and what these have.
_MUST_BE = {
    "apply_residual_connection_post_layernorm": False,
    "fp32_residual_connection": False,
    "interleaved_qkv": False,
    "multi_query_attention": True,
    "original_rope": True,
    "post_layer_norm": True,
    "pre_seq_len": 0,
    "prefix_projection": False,
    "quantization_bit": 0,
}
#: Fields of training, and of how the publisher's code computes the same thing.
_IGNORED = (
    "apply_query_key_layer_scaling",
    "attention_softmax_in_fp32",
    "bias_dropout_fusion",
    "max_position_embeddings",
    "vocab_size",
)


class ChatGLMModel(DecoderForCausalLM):
    """ChatGLM: as ``modeling_chatglm`` defines it; half of each head turns, by pairs."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``chatglm`` config, with vLLM's own class or the checkpoint's."""
        reader = PublisherReader(config, who, _NAMES)
        for name, value in _MUST_BE.items():
            reader.must_be(name, value)
        reader.ignore(*_IGNORED)
        bias = reader.flag("add_bias_linear")
        qkv_bias = reader.flag("add_qkv_bias") or bias
        eps, is_rms = reader.required("layernorm_epsilon"), reader.flag("rmsnorm", True)
        norm = NormSpec("rms_norm" if is_rms else "layer_norm", eps)
        mlp = reader.mlp(hidden_act="silu", bias=bias, up_name="dense_h_to_4h", down_name="dense_4h_to_h")
        if (given := reader.rope_parameters()) != {"rope_type": "default", "rope_theta": 10000.0}:
            reader.refuse("rope_parameters", given)
        theta = 10000.0 * reader.optional("rope_ratio", 1.0)
        rope = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": 0.5}
        rotary = RotarySpec(rope, reader.required("max_position_embeddings"), is_neox_style=False)

        def layer(index: int) -> DecoderLayerSpec:
            attention = reader.attention(
                index,
                head_size=reader.required("kv_channels"),
                rotary=rotary,
                qkv_bias=qkv_bias,
                o_bias=bias,
                name="self_attention",
                qkv_name="query_key_value",
                o_name="dense",
            )
            return reader.pre_norm_layer(norm, attention, mlp)

        return reader.decoder(
            layer,
            norm.named("encoder.final_layernorm"),
            name="transformer",
            embedding_name="embedding.word_embeddings",
            layers_name="encoder.layers",
            lm_head_name="transformer.output_layer",
        )


class ChatGLMForConditionalGeneration(ChatGLMModel):
    """The same, as some of its configs call it."""
