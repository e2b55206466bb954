"""GTE and Arctic Embed 2, as encoders, cross-encoders and classifiers of tokens."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder.spec import NormSpec
from mszoo.layers.encoder import EncoderForPooling, EncoderSpec
from mszoo.models.encoder_reader import EncoderReader


class GteModel(EncoderForPooling):
    """GTE, as Hugging Face's ``models/gte`` defines it: BERT with rotation and a gated MLP."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> EncoderSpec:
        """Read a ``gte`` config."""
        return gte_encoder(EncoderReader(config, who))


class GteForSequenceClassification(GteModel):
    """GTE with a head for classes of a text or a pair of texts."""


class GteForTokenClassification(GteModel):
    """GTE with a head for classes of each token."""


def gte_encoder(reader: EncoderReader) -> EncoderSpec:
    """Return GTE's encoder, by the names of its checkpoints."""
    norm = NormSpec("layer_norm", reader.required("layer_norm_eps"))
    act = reader.required("hidden_act")
    mlp = reader.mlp(
        hidden_act="gelu" if act == "geglu" else act,  # what vLLM makes of gelu in its copy of the config
        down_bias=True,
        up_first=True,
        up_name="up_gate_proj",
    )
    layer = reader.layer(
        reader.encoder_attention(rotary=reader.rotary(0), o_name="o_proj"),
        mlp,
        norm_after_attention=norm.named("attn_ln"),
        norm_after_mlp=norm.named("mlp_ln"),
        norms_sums=True,
    )
    return reader.encoder(
        lambda _: layer,
        norm.named("embeddings.LayerNorm"),
        token_types=reader.token_types(may_lack=True),
        head=reader.head(dense_name="" if reader.classifies_tokens else "new.pooler.dense"),
        name="new",
        other_names=("gte",),  # as transformers writes it
        ignored=("lm_head.*", "pooler.*"),
    )
