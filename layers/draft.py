"""Heads that propose tokens to another model, the target, from its hidden states (speculative decoding)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any, ClassVar

import torch

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.concatenation import concatenation
from mszoo.layers.embedding import LogitsProcessor
from mszoo.layers.model import Model
from mszoo.layers.weights import Expected

import mindspore as ms


class DraftHead(Model):
    """A head: MindSpore tensors in, MindSpore tensors out.

    A subclass is constructed as a :class:`mszoo.layers.model.Model`, inside vLLM's config of the head, and sets
    ``logits_processor``.

    Attributes:
        shared: names of parameters that a checkpoint may lack: the target's take their place.
        lm_head: the output projection; vLLM puts the target's there where the head has none of its own.
        reads_tokens: it reads token ids and positions too.
        has: of the parameters of ``shared``, those that the checkpoint had.
    """

    shared: ClassVar[tuple[str, ...]] = ("model.embed_tokens.weight", "lm_head.weight")
    reads_tokens: ClassVar[bool] = True
    lm_head: Any
    logits_processor: LogitsProcessor

    def __init__(self) -> None:
        super().__init__()
        self.has: frozenset[str] = frozenset()
        self.beside = concatenation()

    @abstractmethod
    def forward(  # type: ignore[override]  # a head reads hidden states where a model takes embeddings
        self, input_ids: ms.Tensor, positions: ms.Tensor, hidden_states: ms.Tensor
    ) -> ms.Tensor | tuple[ms.Tensor, ms.Tensor]:
        """Return what logits are made of, [T, hidden], and where that is another one, what the next step reads.

        Args:
            input_ids: [T], each one the token behind the one of ``hidden_states``.
            positions: [T].
            hidden_states: [T, hidden], the target's or this head's own of a step before; they are left as they are.
        """

    def embed_input_ids(self, input_ids: ms.Tensor) -> ms.Tensor:
        """Return the embeddings of token ids, by the target's table where it is shared: [T] -> [T, hidden]."""
        return to_mindspore(self.get_submodule("model.embed_tokens")(to_torch(input_ids)))

    def compute_logits(self, hidden_states: ms.Tensor) -> ms.Tensor | None:
        """Return logits [T, vocab] of hidden states [T, hidden]; None on ranks that don't gather them."""
        logits = self.logits_in_torch(to_torch(hidden_states))
        return None if logits is None else to_mindspore(logits)

    def logits_in_torch(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """See :meth:`mszoo.layers.CausalLM.logits_in_torch`."""
        logits: torch.Tensor | None = self.logits_processor(self.lm_head, hidden_states)
        return logits

    def expected_tensors(self) -> dict[str, Expected]:
        """See :meth:`mszoo.layers.model.Model.expected_tensors`: what the target shares may be missing."""
        if self._expected is None:
            table = super().expected_tensors()
            self._expected = {
                name: replace(entry, required=False) if entry.parameter in self.shared else entry
                for name, entry in table.items()
            }
        return self._expected

    def checkpoint_name(self, name: str, expected: Collection[str]) -> str:
        """See :meth:`mszoo.layers.model.Model.checkpoint_name`: heads name what is in the network alone."""
        whole = f"model.{name}"
        return whole if whole in expected else name

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """See :meth:`mszoo.layers.model.Model.load_weights`; what the target shares counts as loaded."""
        loaded = super().load_weights(weights)
        self.has = frozenset(loaded.intersection(self.shared))
        return loaded | {name for name, _ in self.named_parameters() if name in self.shared}
