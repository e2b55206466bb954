"""ELECTRA, as an encoder and classifier of texts and tokens."""

from __future__ import annotations

from typing import Any

from mszoo.layers.encoder import EncoderForPooling, EncoderSpec
from mszoo.models.bert import bert_encoder
from mszoo.models.encoder_reader import EncoderReader

_OF_TEXTS = {"name": "classifier.out_proj", "dense_name": "classifier.dense", "activation": "gelu"}


class ElectraModel(EncoderForPooling):
    """ELECTRA, as Hugging Face's ``models/electra`` defines it: BERT, whose embeddings may be narrower."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> EncoderSpec:
        """Read an ``electra`` config."""
        reader = EncoderReader(config, who)
        width = reader.required("embedding_size")
        return bert_encoder(
            reader,
            embedding_size=width,
            projection_name="" if width == reader.hidden_size else "embeddings_project",
            head=reader.head(**{} if reader.classifies_tokens else _OF_TEXTS),
            name="electra",
            ignored=(
                "discriminator_predictions.*",
                "generator_predictions.*",
                "generator_lm_head.*",
                "embeddings.position_ids",
                "embeddings.token_type_ids",
            ),
        )


class ElectraForSequenceClassification(ElectraModel):
    """ELECTRA with a head for classes of a text or a pair of texts."""


class ElectraForTokenClassification(ElectraModel):
    """ELECTRA with a head for classes of each token."""
