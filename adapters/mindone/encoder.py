"""Encoders of MindSpore One, BERT and its like, as vLLM serves them: embeddings of texts."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from mszoo.adapters.described import architecture_of
from mszoo.adapters.mindone import importer
from mszoo.adapters.mindone.architectures import read
from mszoo.adapters.mindone.network import build
from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers import (
    Encoder,
    EncoderAttention,
    LayerNorm,
    Module,
    TokenEmbedding,
    column_linear,
    current_model_config,
    heads_on_this_rank,
    qkv_linear,
    row_linear,
)
from mszoo.layers.cells import CellStays, replace_cells
from mszoo.layers.model import outside_the_tree
from mszoo.registry.errors import RefusalError

import mindspore as ms

_tanh_gelu = functools.partial(functional.gelu, approximate="tanh")
#: Activations by torch, by class of the suite's.
_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "FastGELUActivation": _tanh_gelu,
    "GELUActivation": functional.gelu,
    "GELUTanh": _tanh_gelu,
    "NewGELUActivation": _tanh_gelu,
    "ReLU": functional.relu,
    "ReLUSquaredActivation": lambda x: functional.relu(x).square(),
    "SiLU": functional.silu,
    "SiLUActivation": functional.silu,
}


class EncoderModel(Encoder):
    """Any encoder of MindSpore One that architectures.json lists.

    Args:
        config: the Hugging Face config; ``architectures`` says which encoder.
        prefix: prepended to the layers' names.

    Raises:
        RefusalError: naming what can't be honoured.
        SuiteImportError: the family's file can't be imported.
    """

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        name = architecture_of(config)
        who = f"mindone.{name}"
        super().__init__()
        self.config = config
        modeling = importer.modeling(read()[name].family)
        accepted = inspect.signature(getattr(modeling, name).__init__).parameters
        # vLLM pools: what the checkpoint has for its own pooling is left out.
        arguments = {"add_pooling_layer": False} if "add_pooling_layer" in accepted else {}
        network = build(modeling, name, config, who, causal=False, **arguments)
        self.replaced = replace_cells(network, self, prefix=prefix)
        outside_the_tree(self, network=network)
        count = sum(isinstance(module, EncoderAttention) for module in self.modules())
        if count != config.num_hidden_layers:
            raise RefusalError(
                who,
                f"{count} of its {config.num_hidden_layers} layers are BERT's, and what others do isn't known",
                "Serve it with another implementation",
            )
        # RoBERTa's like number positions from behind the padding token's.
        padding = getattr(network.embeddings, "padding_idx", None)
        self._first_position = 0 if padding is None else padding + 1
        _refuse_long_sequences(config.max_position_embeddings - self._first_position, who)

    def forward(
        self, input_ids: ms.Tensor | None, positions: ms.Tensor, inputs_embeds: ms.Tensor | None = None
    ) -> ms.Tensor:
        """See :meth:`mszoo.layers.Encoder.forward`."""
        network = self.network
        places = (to_torch(positions) + self._first_position)[None]
        embedded = network.embeddings(
            input_ids=_as_batch(input_ids),
            position_ids=to_mindspore(places),
            token_type_ids=to_mindspore(torch.zeros_like(places)),
            inputs_embeds=_as_batch(inputs_embeds),
        )
        if hasattr(network, "embeddings_project"):
            embedded = network.embeddings_project(embedded)
        # The network's own construct would make masks of all tokens by all tokens, which vLLM's attention has
        # no use for.
        hidden_states = network.encoder(embedded, return_dict=True)[0]
        return to_mindspore(to_torch(hidden_states)[0])

    def embed_input_ids(self, input_ids: ms.Tensor) -> ms.Tensor:
        """Return the embeddings of token ids: [T] -> [T, hidden]."""
        return self.get_submodule("embeddings.word_embeddings")(input_ids)

    def unused_tensors(self) -> tuple[str, ...]:
        """See :meth:`mszoo.layers.Encoder.unused_tensors`."""
        return (
            "pooler.dense.weight",
            "pooler.dense.bias",
            "embeddings.position_ids",
            "embeddings.token_type_ids",
        )


class Embeddings(Module):
    """What BERT and its like make of token ids: the sum of three embeddings, normed.

    By torch: one product or sum by MindSpore a step would wake its threads, which then keep the cores from vLLM's
    kernels: a step on a short text takes twice as long.

    Args:
        cell: the suite's embeddings.
        prefix: their name.

    Raises:
        CellStays: they add something else too.
    """

    def __init__(self, cell: ms.nn.Cell, *, prefix: str) -> None:
        if getattr(cell, "use_task_id", False):
            raise CellStays(f"{prefix} adds embeddings of tasks")
        super().__init__()
        tokens, width = cell.word_embeddings.weight.shape
        self.word_embeddings = TokenEmbedding(tokens, width, prefix=f"{prefix}.word_embeddings")
        self.position_embeddings = torch.nn.Embedding(cell.position_embeddings.weight.shape[0], width)
        self.token_type_embeddings = torch.nn.Embedding(cell.token_type_embeddings.weight.shape[0], width)
        self.LayerNorm = _norm_of(cell.LayerNorm)

    def forward(
        self,
        input_ids: ms.Tensor | None = None,
        token_type_ids: ms.Tensor | None = None,
        position_ids: ms.Tensor | None = None,
        inputs_embeds: ms.Tensor | None = None,
    ) -> ms.Tensor:
        """Look up, add and norm: [1, T] each, or [1, T, width] as ``inputs_embeds`` -> [1, T, width]."""
        words = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        types, places = to_torch(token_type_ids), to_torch(position_ids)
        added = to_torch(words) + self.token_type_embeddings(types) + self.position_embeddings(places)
        return self.LayerNorm(to_mindspore(added))


class EncoderLayer(Module):
    """A whole layer of BERT and its like: attention, then an MLP, a norm after each.

    Args:
        cell: the suite's layer.
        prefix: the layer's name.

    Raises:
        RefusalError: the layer attends in another way than BERT's.
    """

    def __init__(self, cell: ms.nn.Cell, *, prefix: str) -> None:
        super().__init__()
        kind = getattr(cell.attention.self, "position_embedding_type", "absolute")
        if kind != "absolute" or cell.is_decoder or cell.add_cross_attention:
            what = f"position_embedding_type={kind!r}" if kind != "absolute" else "is_decoder=true"
            raise RefusalError(
                "config.json", f"{what} is not supported", "Serve it with another implementation"
            )
        heads, size = cell.attention.self.num_attention_heads, cell.attention.self.attention_head_size
        hidden, inner = heads * size, cell.intermediate.dense.weight.shape[0]
        on_rank, _ = heads_on_this_rank(heads, heads)
        # Named as in checkpoints.
        self.attention, self.intermediate, self.output = Module(), Module(), Module()
        attend, project = Module(), Module()
        self.attention.add_module("self", attend)
        self.attention.add_module("output", project)
        attend.qkv_proj = qkv_linear(
            hidden, size, heads, heads, bias=True, prefix=f"{prefix}.attention.self.qkv_proj"
        )
        attend.attn = EncoderAttention(on_rank, size, size**-0.5, prefix=f"{prefix}.attention.self.attn")
        project.dense = row_linear(hidden, hidden, bias=True, prefix=f"{prefix}.attention.output.dense")
        project.LayerNorm = _norm_of(cell.attention.output.LayerNorm)
        self.intermediate.dense = column_linear(
            hidden, inner, bias=True, prefix=f"{prefix}.intermediate.dense"
        )
        self._act = _activation_of(cell.intermediate.intermediate_act_fn)
        self.output.dense = row_linear(inner, hidden, bias=True, prefix=f"{prefix}.output.dense")
        self.output.LayerNorm = _norm_of(cell.output.LayerNorm)

    def forward(self, hidden_states: ms.Tensor, *_: Any, **__: Any) -> tuple[ms.Tensor]:
        """Return the layer's output alone in a tuple, as the suite's layers do: [1, T, hidden]."""
        x = to_torch(hidden_states)[0]
        attend, project = self.attention.get_submodule("self"), self.attention.output
        attended = to_torch(attend.attn(to_mindspore(attend.qkv_proj(x))))
        x = project.LayerNorm.of(project.dense(attended) + x)
        inner = self._act(self.intermediate.dense(x))
        x = self.output.LayerNorm.of(self.output.dense(inner) + x)
        return (to_mindspore(x[None]),)


def _norm_of(cell: ms.nn.Cell) -> LayerNorm:
    eps = cell.epsilon if isinstance(cell, ms.nn.LayerNorm) else cell.eps
    return LayerNorm(int(cell.normalized_shape[0]), float(eps))


def _activation_of(cell: ms.nn.Cell) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return an activation by torch.

    Raises:
        CellStays: it isn't one of the known ones.
    """
    kind = type(cell).__name__
    if kind not in _ACTIVATIONS:
        raise CellStays(f"{kind} is none that mszoo knows")
    return _ACTIVATIONS[kind]


def _as_batch(tensor: ms.Tensor | None) -> ms.Tensor | None:
    """Return a view with an axis of size 1 before the others."""
    return None if tensor is None else to_mindspore(to_torch(tensor)[None])


def _refuse_long_sequences(longest: int, who: str) -> None:
    asked = current_model_config().max_model_len
    if asked > longest:
        raise RefusalError(
            who,
            f"it has positions for {longest} tokens, and max_model_len is {asked}",
            f"Serve with --max-model-len {longest}",
        )
