"""DistilBERT, as an encoder and classifier of texts and tokens."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder.spec import NormSpec
from mszoo.layers.encoder import EncoderForPooling, EncoderSpec
from mszoo.models.encoder_reader import EncoderReader

_EPS = 1e-12


class DistilBertModel(EncoderForPooling):
    """DistilBERT, as Hugging Face's ``models/distilbert`` defines it: BERT without token types."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> EncoderSpec:
        """Read a ``distilbert`` config."""
        reader = EncoderReader(config, who)
        norm = NormSpec("layer_norm", _EPS)
        mlp = reader.mlp(
            intermediate_size=reader.required("hidden_dim"),
            hidden_act=reader.required("activation"),
            gated=False,
            bias=True,
            name="ffn",
            up_name="lin1",
            down_name="lin2",
        )
        layer = reader.layer(
            reader.encoder_attention(o_name="out_lin"),
            mlp,
            norm_after_attention=norm.named("sa_layer_norm"),
            norm_after_mlp=norm.named("output_layer_norm"),
            norms_sums=True,
        )
        reader.ignore("sinusoidal_pos_embds")  # what the table begins with in training
        before = {} if reader.classifies_tokens else {"dense_name": "pre_classifier", "activation": "relu"}
        return reader.encoder(
            lambda _: layer,
            norm.named("embeddings.LayerNorm"),
            positions=reader.positions("embeddings.position_embeddings"),
            head=reader.head(**before),
            name="distilbert",
            layers_name="transformer.layer",
            ignored=(
                "vocab_transform.*",
                "vocab_layer_norm.*",
                "vocab_projector.*",
                "embeddings.position_ids",
            ),
        )


class DistilBertForSequenceClassification(DistilBertModel):
    """DistilBERT with a head for classes of a text or a pair of texts."""


class DistilBertForTokenClassification(DistilBertModel):
    """DistilBERT with a head for classes of each token."""
