"""ALBERT, as an encoder, cross-encoder and classifier of texts and tokens."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder.spec import NormSpec
from mszoo.layers.encoder import EncoderForPooling, EncoderSpec
from mszoo.models.config_types import MOST_LAYERS
from mszoo.models.encoder_reader import EncoderReader


class AlbertModel(EncoderForPooling):
    """ALBERT, as Hugging Face's ``models/albert`` defines it: narrow embeddings, and layers that share weights."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> EncoderSpec:
        """Read an ``albert`` config."""
        reader = EncoderReader(config, who)
        norm = NormSpec("layer_norm", reader.required("layer_norm_eps"))
        layer = reader.layer(
            reader.encoder_attention(o_name="dense"),
            reader.mlp(gated=False, bias=True, name="", up_name="ffn", down_name="ffn_output"),
            norm_after_attention=norm.named("attention.LayerNorm"),
            norm_after_mlp=norm.named("full_layer_layer_norm"),
            norms_sums=True,
        )
        groups, inner = reader.required("num_hidden_groups"), reader.required("inner_group_num")
        if not 0 < groups <= reader.num_layers:
            reader.refuse("num_hidden_groups", groups)
        if reader.num_layers * inner > MOST_LAYERS:
            reader.refuse("inner_group_num", inner)
        # Each group runs for its share of the layers.
        runs = [int(index / (reader.num_layers / groups)) for index in range(reader.num_layers)]
        return reader.encoder(
            lambda _: layer,
            norm.named("embeddings.LayerNorm"),
            layers=(layer,) * (groups * inner),
            order=tuple(group * inner + index for group in runs for index in range(inner)),
            embedding_size=reader.required("embedding_size"),
            projection_name="encoder.embedding_hidden_mapping_in",
            positions=reader.positions("embeddings.position_embeddings"),
            token_types=reader.token_types(),
            head=reader.head(dense_name="" if reader.classifies_tokens else "albert.pooler"),
            name="albert",
            layers_name="encoder.albert_layer_groups",
            layer_names=tuple(
                f"{group}.albert_layers.{index}" for group in range(groups) for index in range(inner)
            ),
            ignored=("predictions.*", "sop_classifier.*", "embeddings.position_ids", "pooler.*"),
        )


class AlbertForSequenceClassification(AlbertModel):
    """ALBERT with a head for classes of a text or a pair of texts, on ALBERT's pooler."""


class AlbertForTokenClassification(AlbertModel):
    """ALBERT with a head for classes of each token."""
