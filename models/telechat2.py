"""TeleChat2."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec, QKVLayout, RotarySpec
from mszoo.models.publisher import PublisherReader

_NAMES = {
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "ffn_hidden_size",
    "rms_norm_eps": "layer_norm_epsilon",
}
#: Fields of training, and of how its code computes the same thing.
_IGNORED = (
    "attention_softmax_in_fp32",
    "bias_dropout_fusion",
    "flash_attn",
    "logn",
    "masked_softmax_fusion",
    "n_inner",
    "offset_alibi",
    "skip_bias_add",
    "skip_bias_add_qkv",
    "slow_but_exact",
)
#: How long the sequences were that it was trained on: longer ones turn by another base.
_LENGTHS = ("base_seqlen", "training_seqlen", "seq_length")


class TeleChat2ForCausalLM(DecoderForCausalLM):
    """TeleChat2: as its ``modeling_telechat2`` defines it; each head has its key and value beside each other."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read the ``telechat`` config of a TeleChat2."""
        reader = PublisherReader(config, who, _NAMES)
        for name in ("apply_residual_connection_post_layernorm", "embed_layernorm"):
            reader.must_be(name, False)
        reader.must_be("hidden_act", "silu")
        reader.ignore(*_IGNORED)
        heads = reader.required("num_attention_heads")
        kv_heads = reader.optional("num_key_value_heads", heads)
        layout = QKVLayout(kv_heads, modules=(("query", "q"), ("key_value", "kv")))
        lengths = [length for name in _LENGTHS if (length := reader.optional(name, None))]
        if not lengths:
            reader.required("seq_length")
        rope = reader.rope_parameters()
        if rope.keys() != {"rope_type", "rope_theta"}:
            reader.refuse("rope_parameters", rope)
        norm, mlp = reader.rms_norm(), reader.mlp(hidden_act="silu", down_bias=True)

        def layer(index: int) -> DecoderLayerSpec:
            attention = reader.attention(
                index,
                head_size=reader.head_size_of_equal_shares(),
                rotary=RotarySpec(rope | {"rope_type": "dynamic"}, min(lengths)),
                o_bias=True,
                name="self_attention",
                o_name="dense",
                qkv_layout=layout,
            )
            return reader.pre_norm_layer(norm, attention, mlp)

        return reader.decoder(
            layer,
            norm.named("ln_f"),
            name="transformer",
            embedding_name="word_embeddings",
            layers_name="h",
        )
