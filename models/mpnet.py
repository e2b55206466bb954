"""MPNet, as an encoder and classifier of texts and tokens."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder.spec import NormSpec, RelativeBiasSpec
from mszoo.layers.encoder import EncoderForPooling, EncoderSpec
from mszoo.models.encoder_reader import EncoderReader

#: Positions begin behind the padding token, which is this one whatever the config says; and so many buckets of the
#: table are used, however many it has.
_PADDING, _BUCKETS = 1, 32
_OF_TEXTS = {"name": "classifier.out_proj", "dense_name": "classifier.dense"}


class MPNetModel(EncoderForPooling):
    """MPNet, as Hugging Face's ``models/mpnet`` defines it: BERT, whose attention's scores get a relative bias."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> EncoderSpec:
        """Read an ``mpnet`` config."""
        reader = EncoderReader(config, who)
        norm = NormSpec("layer_norm", reader.required("layer_norm_eps"))
        buckets = reader.required("relative_attention_num_buckets")
        if buckets < _BUCKETS:
            reader.refuse("relative_attention_num_buckets", buckets)
        layer = reader.layer(
            reader.encoder_attention(name="attention.attn", o_name="o", relative_bias=True),
            reader.mlp(
                gated=False, bias=True, name="", up_name="intermediate.dense", down_name="output.dense"
            ),
            norm_after_attention=norm.named("attention.LayerNorm"),
            norm_after_mlp=norm.named("output.LayerNorm"),
            norms_sums=True,
        )
        return reader.encoder(
            lambda _: layer,
            norm.named("embeddings.LayerNorm"),
            positions=reader.positions("embeddings.position_embeddings", _PADDING + 1),
            relative_bias=RelativeBiasSpec("encoder.relative_attention_bias", buckets, _BUCKETS),
            head=reader.head(**{} if reader.classifies_tokens else _OF_TEXTS),
            name="mpnet",
            ignored=("lm_head.*", "embeddings.position_ids", "pooler.*"),
        )


class MPNetForSequenceClassification(MPNetModel):
    """MPNet with a head for classes of a text or a pair of texts."""


class MPNetForTokenClassification(MPNetModel):
    """MPNet with a head for classes of each token."""
