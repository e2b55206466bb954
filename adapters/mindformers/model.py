"""The suite's models as vLLM serves them: the suite's network, with mszoo's layers in the places of its cells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from mszoo.adapters.mindformers import network
from mszoo.adapters.mindformers.checkpoint import layout_of
from mszoo.adapters.mindformers.config import architecture_of, suite_config
from mszoo.layers import (
    CausalLM,
    LogitsProcessor,
    Module,
    current_model_config,
    lm_head,
    token_embedding,
)
from mszoo.layers.cells import replace_cells
from mszoo.layers.decoder.graph import GraphPath
from mszoo.layers.positions import running_at
from mszoo.layers.weights import Expected, load
from mszoo.models.reader import prediction_tensors

import mindspore as ms

#: The suite's names of modules, and Hugging Face's.
_NAMES = (
    ("decoder.layers", "model.layers"),
    ("decoder.final_layernorm", "model.norm"),
    (".self_attention", ".self_attn"),
    (".pre_mlp_layernorm", ".post_attention_layernorm"),
)


def name_of(path: str) -> str:
    """Return Hugging Face's name of a cell in the suite's ``GPTModel``."""
    for ours, theirs in _NAMES:
        path = path.replace(ours, theirs)
    return path


class SuiteModel(CausalLM):
    """A model of the suite that generates text.

    Args:
        config: the Hugging Face config; ``architectures`` says which model.
        prefix: prepended to the layers' names.

    Raises:
        RefusalError: the suite can't honour a field of the config, or can't be imported.
    """

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        name, architecture = architecture_of(config)
        who = f"mindformers.{name}"
        model_config = current_model_config()
        values = suite_config(
            architecture,
            config,
            who,
            dtype=str(model_config.dtype).removeprefix("torch."),
            max_model_len=model_config.max_model_len,
        )
        stack = network.build_stack(architecture, values)
        super().__init__()
        self.config = config
        #: How the checkpoint differs from the model's modules.
        self.layout = layout_of(name, config)
        dot = f"{prefix}." if prefix else ""
        vocab_size, hidden_size = values["vocab_size"], values["hidden_size"]
        self.model = Module()
        self.model.embed_tokens = token_embedding(vocab_size, hidden_size, prefix=f"{dot}model.embed_tokens")
        self.replaced = replace_cells(stack, self, name_of=name_of, prefix=prefix)
        self.stack = stack
        self.lm_head = lm_head(
            vocab_size,
            hidden_size,
            prefix=f"{dot}lm_head",
            tied_to=self.model.embed_tokens if values["tie_word_embeddings"] else None,
        )
        self.logits_processor = LogitsProcessor(vocab_size)
        #: Runs the stack as one graph, in the ``mindspore`` kernel set.
        self.graph = GraphPath(list(self.model.layers.children()), self.model.norm)

    def forward(
        self, input_ids: ms.Tensor | None, positions: ms.Tensor, inputs_embeds: ms.Tensor | None = None
    ) -> ms.Tensor:
        """See :meth:`mszoo.layers.CausalLM.forward`."""
        x = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        hidden_states = self.graph(positions, x)
        if hidden_states is not None:
            return hidden_states
        with running_at(positions):
            return self.stack(input_ids=None, hidden_states=x, positions=positions)

    def expected_tensors(self) -> dict[str, Expected]:
        """See :meth:`mszoo.layers.CausalLM.expected_tensors`."""
        return self.layout.expected(super().expected_tensors())

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """See :meth:`mszoo.layers.CausalLM.load_weights`."""
        table = super().expected_tensors()
        return load(self, table, self.layout.by_model(weights), self.left_out())

    def unused_tensors(self) -> tuple[str, ...]:
        """Return names that the model doesn't use: tied logits, and layers that predict further tokens."""
        layers = len(list(self.model.layers.children()))
        return (*super().unused_tensors(), *prediction_tensors(self.config.to_dict(), layers))
