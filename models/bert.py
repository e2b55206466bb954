"""BERT, ERNIE, RoBERTa and CamemBERT, as encoders, cross-encoders and classifiers of texts and tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, ClassVar

import torch

from mszoo.layers.decoder.spec import NormSpec, PositionSpec
from mszoo.layers.encoder import EncoderForPooling, EncoderSpec
from mszoo.models import jina
from mszoo.models.encoder_reader import EncoderReader

#: What checkpoints carry beside: heads that predict words, what is computed, and a pooler that no head reads.
_IGNORED = ("cls.*", "lm_head.*", "embeddings.position_ids", "embeddings.token_type_ids", "pooler.*")


class BertModel(EncoderForPooling):
    """BERT, as Hugging Face's ``models/bert`` defines it: each half of a layer adds to the stream and norms it."""

    root: ClassVar[str] = "bert"

    @classmethod
    def read_config(cls, config: Any, who: str) -> EncoderSpec:
        """Read a ``bert`` config, or one of an encoder that differs in its name alone."""
        reader = EncoderReader(config, who)
        dense = "" if reader.classifies_tokens else f"{cls.root}.pooler.dense"
        head = reader.head(dense_name=dense)
        return bert_encoder(reader, name=cls.root, head=head, tasks=cls.read_tasks(reader))

    @classmethod
    def read_tasks(cls, reader: EncoderReader) -> PositionSpec | None:
        """Return the embeddings of tasks, or None."""
        del reader
        return None


class BertForSequenceClassification(BertModel):
    """BERT with a head for classes of a text or a pair of texts, on BERT's pooler."""


class BertForTokenClassification(BertModel):
    """BERT with a head for classes of each token."""


class ErnieModel(BertModel):
    """ERNIE, which is BERT with or without embeddings of tasks."""

    root: ClassVar[str] = "ernie"

    @classmethod
    def read_tasks(cls, reader: EncoderReader) -> PositionSpec | None:
        """See :meth:`BertModel.read_tasks`."""
        rows = reader.required("task_type_vocab_size")
        name = "embeddings.task_type_embeddings"
        return PositionSpec(rows, name=name) if reader.flag("use_task_id") else None


class ErnieForSequenceClassification(ErnieModel):
    """ERNIE with a head for classes of a text or a pair of texts."""


class ErnieForTokenClassification(ErnieModel):
    """ERNIE with a head for classes of each token."""


class RobertaModel(EncoderForPooling):
    """RoBERTa: BERT, whose positions begin behind the padding token's."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> EncoderSpec:
        """Read a ``roberta`` or ``xlm-roberta`` config."""
        reader = EncoderReader(config, who)
        if jina.is_jinas(config):
            reader.refuse("position_embedding_type", config.position_embedding_type)
        of_texts = {"name": "classifier.out_proj", "dense_name": "classifier.dense"}
        head = reader.head(**{} if reader.classifies_tokens else of_texts)
        first = reader.required("pad_token_id") + 1
        return bert_encoder(reader, first_position=first, name="roberta", head=head)


class RobertaForSequenceClassification(RobertaModel):
    """RoBERTa with a head for classes of a text or a pair of texts."""


class RobertaForTokenClassification(RobertaModel):
    """RoBERTa with a head for classes of each token."""


class XLMRobertaModel(RobertaModel):
    """XLM-R, which is RoBERTa with another vocabulary; or Jina's encoder by its name."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> EncoderSpec:
        """Read an ``xlm-roberta`` config, or Jina's."""
        return jina.jina_encoder(config, who) if jina.is_jinas(config) else super().read_config(config, who)

    def checkpoint_name(self, name: str, expected: Collection[str]) -> str:
        """See :meth:`mszoo.layers.model.Model.checkpoint_name`."""
        return super().checkpoint_name(jina.name_of_weight(name), expected)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """See :meth:`mszoo.layers.model.Model.load_weights`."""
        return super().load_weights(
            jina.merged(weights, self.config) if jina.is_jinas(self.config) else weights
        )


class XLMRobertaForSequenceClassification(RobertaModel):
    """XLM-R with a head for classes of a text or a pair of texts: bge-reranker, for one."""


class XLMRobertaForTokenClassification(RobertaModel):
    """XLM-R with a head for classes of each token."""


class CamembertModel(RobertaModel):
    """CamemBERT, which is RoBERTa with another vocabulary."""


class CamembertForSequenceClassification(RobertaModel):
    """CamemBERT with a head for classes of a text or a pair of texts."""


class CamembertForTokenClassification(RobertaModel):
    """CamemBERT with a head for classes of each token."""


def bert_encoder(reader: EncoderReader, *, first_position: int = 0, **others: Any) -> EncoderSpec:
    """Return an encoder with BERT's layers and embeddings, by BERT's names."""
    norm = NormSpec("layer_norm", reader.required("layer_norm_eps"))
    layer = reader.layer(
        reader.encoder_attention(qkv_name="self.qkv_proj", o_name="output.dense"),
        reader.mlp(gated=False, bias=True, name="", up_name="intermediate.dense", down_name="output.dense"),
        norm_after_attention=norm.named("attention.output.LayerNorm"),
        norm_after_mlp=norm.named("output.LayerNorm"),
        norms_sums=True,
    )
    return reader.encoder(
        lambda _: layer,
        norm.named("embeddings.LayerNorm"),
        positions=reader.positions("embeddings.position_embeddings", first_position),
        token_types=reader.token_types(),
        **{"ignored": _IGNORED} | others,
    )
