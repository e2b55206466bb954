"""ModernBERT, as an encoder, cross-encoder and classifier of texts and tokens."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder.spec import DecoderLayerSpec, NormSpec
from mszoo.layers.encoder import EncoderForPooling, EncoderSpec
from mszoo.models.encoder_reader import EncoderReader


class ModernBertModel(EncoderForPooling):
    """ModernBERT, as Hugging Face's ``models/modernbert`` defines it: rotation, and windows in most layers."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> EncoderSpec:
        """Read a ``modernbert`` config."""
        reader = EncoderReader(config, who)
        norm = NormSpec("layer_norm", reader.required("norm_eps"), bias=reader.flag("norm_bias"))
        mlp = reader.mlp(
            hidden_act=reader.required("hidden_activation"),
            bias=reader.flag("mlp_bias"),
            up_name="Wi",
            down_name="Wo",
        )
        bias = reader.flag("attention_bias")
        head = reader.head(
            dense_name="head.dense",
            dense_bias=reader.flag("classifier_bias"),
            activation=reader.optional("classifier_activation", "gelu"),
            norm=norm.named("head.norm"),
            pooling=str(reader.optional("classifier_pooling", "cls")).upper(),
        )
        reader.ignore("deterministic_flash_attn", "attention_dropout")
        # The config's class makes layer_types and rope_parameters of them.
        reader.ignore("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta")
        reach = reader.required("local_attention") // 2  # the farthest token, on either side, that is seen
        types = reader.layer_types() or ()
        if len(types) != reader.num_layers or set(types) - {"full_attention", "sliding_attention"}:
            reader.refuse("layer_types", types)

        def layer(index: int) -> DecoderLayerSpec:
            attention = reader.encoder_attention(
                qkv_bias=bias,
                o_bias=bias,
                rotary=reader.rotary(index),
                sliding_window=reach + 1 if types[index] == "sliding_attention" else None,
                name="attn",
                qkv_name="Wqkv",
                o_name="Wo",
            )
            return reader.layer(
                attention,
                mlp,
                norm_before_attention=norm.named("attn_norm") if index else None,
                norm_before_mlp=norm.named("mlp_norm"),
            )

        return reader.encoder(
            layer,
            norm.named("embeddings.norm"),
            norm=norm.named("final_norm"),
            head=head,
            name="model",
            embedding_name="embeddings.tok_embeddings",
            layers_name="layers",
            ignored=("head.*", "decoder.*", "classifier.*"),
        )


class ModernBertForSequenceClassification(ModernBertModel):
    """ModernBERT with a head for classes of a text or a pair of texts."""


class ModernBertForTokenClassification(ModernBertModel):
    """ModernBERT with a head for classes of each token."""
