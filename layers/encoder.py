"""An encoder, as a spec describes it: embeddings, layers that see whole sequences, a head for classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.decoder.build import build_norm
from mszoo.layers.decoder.layer import DecoderLayer
from mszoo.layers.decoder.spec import DecoderLayerSpec, NormSpec, PositionSpec, RelativeBiasSpec
from mszoo.layers.embedding import TokenEmbedding, apply_embedding, token_embedding
from mszoo.layers.heads import ClassificationHead, HeadSpec
from mszoo.layers.linear import WholeLinear
from mszoo.layers.model import (
    Encoder,
    add_part,
    current_model_config,
    outside_the_tree,
)
from mszoo.layers.relative import RelativeBias
from mszoo.layers.seam import init_logger
from mszoo.registry.errors import RefusalError

import mindspore as ms

logger = init_logger("vllm.mszoo.layers")


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder, whose hidden states are pooled.

    Names are the checkpoint's, inside the network; they may have dots.

    Attributes:
        vocab_size, hidden_size: of the token embedding, and of the layers.
        layers: one each; their attention isn't causal.
        order: which of the layers run, one behind the other (ALBERT's share their weights); empty where each runs
            once.
        embedding_size: width of the embeddings, where ``projection_name`` brings it to ``hidden_size``.
        projection_name: of a linear layer behind the embeddings' norm; empty where there is none.
        embedding_norm: of the sum of all embeddings.
        positions: learned position embeddings.
        relative_bias: of the scores of layers that say so.
        token_types: embeddings of what part of a pair a token belongs to; ``offset`` means nothing here.
        tasks: embeddings of tasks, the first of which every token gets (ERNIE); ``offset`` means nothing here.
        norm: of the last layer's hidden states; None where there is none.
        head: makes scores of classes; None for an encoder that gives embeddings.
        name: of the network in checkpoints of models with a head.
        other_names: by which checkpoints may have the network too.
        embedding_name, layers_name: of the token embedding, and of the list of layers.
        layer_names: of each layer in that list; empty where they are numbered.
        ignored: tensors that checkpoints carry and nobody reads here, whatever the network's name before them; "*"
            at the end stands for any.
    """

    vocab_size: int
    hidden_size: int
    layers: tuple[DecoderLayerSpec, ...]
    embedding_norm: NormSpec
    order: tuple[int, ...] = ()
    embedding_size: int | None = None
    projection_name: str = ""
    positions: PositionSpec | None = None
    relative_bias: RelativeBiasSpec | None = None
    token_types: PositionSpec | None = None
    tasks: PositionSpec | None = None
    norm: NormSpec | None = None
    head: HeadSpec | None = None
    name: str = "bert"
    other_names: tuple[str, ...] = ()
    embedding_name: str = "embeddings.word_embeddings"
    layers_name: str = "encoder.layer"
    layer_names: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


class EncoderForPooling(Encoder):
    """An encoder: an architecture declares how its config is read, and nothing else.

    Args:
        config: the Hugging Face config.
        prefix: prepended to the layers' names.

    Attributes:
        suite: whose model it is, for messages.
        spec: what it is.

    Raises:
        RefusalError: naming the config field that can't be honoured; or --max-model-len is beyond the positions.
    """

    suite: ClassVar[str] = "native"

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        who = f"{self.suite}.{type(self).__name__}"
        spec = self.read_config(config, who)
        super().__init__()
        self._may_be_too_long = _may_be_too_long(spec.positions, who)
        self.config, self.spec = config, spec
        self._order = spec.order or tuple(range(len(spec.layers)))
        # A checkpoint of the network alone has no name before the tensors' names.
        self._root = f"{spec.name}." if spec.head is not None else ""
        dot = f"{prefix}." if prefix else ""
        width = spec.embedding_size or spec.hidden_size
        tables = {spec.embedding_name: token_embedding(spec.vocab_size, width, prefix=dot)}
        for table in (spec.positions, spec.token_types, spec.tasks):
            if table is not None:
                tables[table.name] = TokenEmbedding(table.num_embeddings, width, prefix=dot)
        for name, table in tables.items():
            add_part(self, f"{self._root}{name}", table)
        if spec.projection_name:
            name = f"{self._root}{spec.projection_name}"
            add_part(self, name, WholeLinear(width, spec.hidden_size, bias=True, prefix=f"{dot}{name}"))
        layers = []
        for name, layer in zip(self._layer_names(), spec.layers, strict=True):
            # Nothing behind the last layer adds the stream.
            layers.append(DecoderLayer(layer, prefix=f"{dot}{self._root}{name}", carries_residual=False))
            add_part(self, f"{self._root}{name}", layers[-1])
        if spec.relative_bias is not None:
            self._add_relative_bias(spec.relative_bias, layers, dot)
        norms = [
            None if norm is None else build_norm(norm, size)
            for norm, size in zip(self._norms, (width, spec.hidden_size), strict=True)
        ]
        for norm, built in zip(self._norms, norms, strict=True):
            if norm is not None and built is not None:
                add_part(self, f"{self._root}{norm.name}", built)
        embedding_norm, last_norm = norms
        outside_the_tree(self, encoder_layers=layers, embedding_norm=embedding_norm, last_norm=last_norm)
        if spec.head is not None:
            ClassificationHead(spec.head, spec.hidden_size, self)

    @classmethod
    @abstractmethod
    def read_config(cls, config: Any, who: str) -> EncoderSpec:
        """Return what the encoder is.

        Args:
            config: the Hugging Face config.
            who: the adapter's name, for messages.

        Raises:
            RefusalError: naming the field that can't be honoured.
        """

    def embed_input_ids(self, input_ids: ms.Tensor) -> ms.Tensor:
        """See :meth:`mszoo.layers.Encoder.embed_input_ids`."""
        return apply_embedding(self._part(self.spec.embedding_name), input_ids)

    def forward(
        self,
        input_ids: ms.Tensor | None,
        positions: ms.Tensor,
        inputs_embeds: ms.Tensor | None = None,
        token_type_ids: ms.Tensor | None = None,
    ) -> ms.Tensor:
        """See :meth:`mszoo.layers.Encoder.forward`."""
        x = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        x = self.embedding_norm(self._with_tables(x, positions, token_type_ids))
        if self.spec.projection_name:
            x = self._part(self.spec.projection_name)(x)
        residual = None
        for index in self._order:
            x, residual = self.encoder_layers[index](positions, x, residual)
        return x if self.last_norm is None else self.last_norm(x)

    def checkpoint_name(self, name: str, expected: Collection[str]) -> str:
        """See :meth:`mszoo.layers.model.Model.checkpoint_name`: with and without the network's name before it."""
        first, _, rest = name.partition(".")
        bare = rest if first in (self.spec.name, *self.spec.other_names) else name
        rooted = f"{self._root}{bare}"
        return rooted if rooted in expected else bare

    def unused_tensors(self) -> tuple[str, ...]:
        """See :meth:`mszoo.layers.model.Model.unused_tensors`."""
        return self.spec.ignored

    def _layer_names(self) -> list[str]:
        names = self.spec.layer_names or map(str, range(len(self.spec.layers)))
        return [f"{self.spec.layers_name}.{name}" for name in names]

    def _add_relative_bias(self, spec: RelativeBiasSpec, layers: Sequence[DecoderLayer], dot: str) -> None:
        (heads,) = {layer.attention.spec.num_heads for layer in layers}
        bias = RelativeBias(spec, heads, prefix=f"{dot}{self._root}{spec.name}")
        add_part(self, f"{self._root}{spec.name}", bias)
        for layer in layers:
            outside_the_tree(layer.attention.attn, bias=bias)

    @property
    def _norms(self) -> tuple[NormSpec | None, NormSpec | None]:
        return self.spec.embedding_norm, self.spec.norm

    def _part(self, name: str) -> torch.nn.Module:
        return self.get_submodule(f"{self._root}{name}")

    def _with_tables(self, x: ms.Tensor, positions: ms.Tensor, types: ms.Tensor | None) -> ms.Tensor:
        """Add the embeddings of positions and of token types: [T, hidden].

        By torch: a sum by MindSpore in a step would wake its threads, which keep the cores from vLLM's kernels.
        """
        words, places = to_torch(x), to_torch(positions)
        added: torch.Tensor | None = None
        if self.spec.token_types is not None:
            rows = torch.zeros_like(places) if types is None else to_torch(types)
            added = self._part(self.spec.token_types.name)(rows)
        if self.spec.tasks is not None:
            found = self._part(self.spec.tasks.name)(torch.zeros_like(places))
            added = found if added is None else added + found
        if self.spec.positions is not None:
            rows = places + self.spec.positions.offset
            beyond = rows >= self.spec.positions.num_embeddings if self._may_be_too_long else None
            if beyond is not None:
                rows = rows.masked_fill(beyond, 0)
            found = self._part(self.spec.positions.name)(rows)
            if beyond is not None and beyond.any():
                # Not a number, so that nobody takes it for an answer; an error here would end the engine.
                found = found.masked_fill(beyond[:, None], float("nan"))
            added = found if added is None else added + found
        return x if added is None else to_mindspore(words + added)


def _may_be_too_long(positions: PositionSpec | None, who: str) -> bool:
    """Return whether vLLM lets sequences through that are longer than there are positions.

    Of RoBERTa's like, vLLM takes all rows of the table for positions where nobody says --max-model-len.

    Raises:
        RefusalError: more than that was asked for.
    """
    asked = current_model_config().max_model_len
    if positions is None or asked <= positions.num_embeddings - positions.offset:
        return False
    longest = positions.num_embeddings - positions.offset
    what = f"it has positions for {longest} tokens, and max_model_len is {asked}"
    hint = f"Serve with --max-model-len {longest}"
    if asked > positions.num_embeddings:
        raise RefusalError(who, what, hint)
    logger.warning_once("mszoo: %s: %s: longer texts get NaN. %s", who, what, hint)
    return True
