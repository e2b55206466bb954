"""Encoders of MindSpore One, BERT and its like, as vLLM serves them: embeddings of texts."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from mszoo.adapters.mindone import importer
from mszoo.adapters.mindone.architectures import read
from mszoo.adapters.mindone.cells import Activation, LayerNorm
from mszoo.adapters.mindone.network import build
from mszoo.layers import (
    Encoder,
    EncoderAttention,
    Module,
    apply_linear,
    column_linear,
    current_model_config,
    heads_on_this_rank,
    qkv_linear,
    row_linear,
)
from mszoo.layers.cells import replace_cells

import mindspore as ms  # isort: skip
from mszoo.kernels.exchange import to_mindspore, to_torch  # isort: skip
from mszoo.registry.errors import RefusalError  # isort: skip


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
        name = config.architectures[0].rpartition(".")[2]
        who = f"mindone.{name}"
        super().__init__()
        self.config = config
        modeling = importer.modeling(read()[name].family)
        accepted = inspect.signature(getattr(modeling, name).__init__).parameters
        # vLLM pools: what the checkpoint has for its own pooling is left out.
        arguments = {"add_pooling_layer": False} if "add_pooling_layer" in accepted else {}
        network = build(modeling, name, config, "eager", who, **arguments)
        self.replaced = replace_cells(network, self, prefix=prefix)
        self.__dict__["network"] = network
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
        if self._first_position:
            positions = to_mindspore(to_torch(positions) + self._first_position)
        positions = positions.view(1, -1)
        embedded = network.embeddings(
            input_ids=None if input_ids is None else input_ids.view(1, -1),
            position_ids=positions,
            token_type_ids=to_mindspore(torch.zeros_like(to_torch(positions))),
            inputs_embeds=None if inputs_embeds is None else inputs_embeds.view(1, *inputs_embeds.shape),
        )
        if hasattr(network, "embeddings_project"):
            embedded = network.embeddings_project(embedded)
        # The network's own construct would make masks of all tokens by all tokens, which vLLM's attention has
        # no use for.
        hidden_states = network.encoder(embedded, return_dict=True)[0]
        return hidden_states.view(hidden_states.shape[1:])

    def embed_input_ids(self, input_ids: ms.Tensor) -> ms.Tensor:
        """Return the embeddings of token ids: [T] -> [T, hidden]."""
        return self.network.get_input_embeddings()(input_ids)

    def unused_tensors(self) -> tuple[str, ...]:
        """See :meth:`mszoo.layers.Encoder.unused_tensors`."""
        return (
            "pooler.dense.weight",
            "pooler.dense.bias",
            "embeddings.position_ids",
            "embeddings.token_type_ids",
        )


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
        project.LayerNorm = LayerNorm(cell.attention.output.LayerNorm, prefix="")
        self.intermediate.dense = column_linear(
            hidden, inner, bias=True, prefix=f"{prefix}.intermediate.dense"
        )
        self.intermediate.activation = Activation(cell.intermediate.intermediate_act_fn, prefix="")
        self.output.dense = row_linear(inner, hidden, bias=True, prefix=f"{prefix}.output.dense")
        self.output.LayerNorm = LayerNorm(cell.output.LayerNorm, prefix="")

    def forward(self, hidden_states: ms.Tensor, *_: Any, **__: Any) -> tuple[ms.Tensor]:
        """Return the layer's output alone in a tuple, as the suite's layers do: [1, T, hidden]."""
        x = to_torch(hidden_states)[0]
        attend, project = self.attention.get_submodule("self"), self.attention.output
        attended = attend.attn(apply_linear(attend.qkv_proj, to_mindspore(x)))
        x = _add_and_norm(project, apply_linear(project.dense, attended), x)
        inner = self.intermediate.activation(apply_linear(self.intermediate.dense, to_mindspore(x)))
        x = _add_and_norm(self.output, apply_linear(self.output.dense, inner), x)
        return (to_mindspore(x[None]),)


def _add_and_norm(module: Any, y: ms.Tensor, x: torch.Tensor) -> torch.Tensor:
    norm = module.LayerNorm
    added = to_torch(y) + x
    return torch.nn.functional.layer_norm(added, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _refuse_long_sequences(longest: int, who: str) -> None:
    asked = current_model_config().max_model_len
    if asked > longest:
        raise RefusalError(
            who,
            f"it has positions for {longest} tokens, and max_model_len is {asked}",
            f"Serve with --max-model-len {longest}",
        )
