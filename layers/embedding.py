"""Token embedding and logits: weights in vLLM's vocabulary-parallel layers."""

from __future__ import annotations

import torch

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.methods import quant_config
from mszoo.layers.seam import LogitsProcessor, ParallelLMHead, VocabParallelEmbedding

import mindspore as ms

__all__ = ["LogitsProcessor", "TokenEmbedding", "apply_embedding", "lm_head", "token_embedding"]


class TokenEmbedding(VocabParallelEmbedding):
    """An embedding table for ids of any shape: [...] -> [..., hidden]; its rows are split over ranks."""

    def __init__(self, vocab_size: int, hidden_size: int, *, prefix: str) -> None:
        super().__init__(vocab_size, hidden_size, quant_config=quant_config(), prefix=prefix)

    def forward(self, input: ms.Tensor | torch.Tensor) -> ms.Tensor | torch.Tensor:
        """Look up; a torch tensor comes from a draft model of vLLM's that shares the table, and goes back to it."""
        if isinstance(input, torch.Tensor):
            return super().forward(input)
        ids = to_torch(input)
        return to_mindspore(super().forward(ids.reshape(-1)).view(*ids.shape, -1))


def token_embedding(vocab_size: int, hidden_size: int, *, prefix: str) -> VocabParallelEmbedding:
    """Make the embedding table [vocab, hidden], rows split over ranks."""
    return VocabParallelEmbedding(vocab_size, hidden_size, quant_config=quant_config(), prefix=prefix)


def lm_head(
    vocab_size: int,
    hidden_size: int,
    *,
    bias: bool = False,
    prefix: str,
    tied_to: VocabParallelEmbedding | None = None,
) -> ParallelLMHead:
    """Make the output projection [vocab, hidden]; ``tied_to`` shares the embedding's weight."""
    head = ParallelLMHead(vocab_size, hidden_size, bias=bias, quant_config=quant_config(), prefix=prefix)
    return head if tied_to is None else head.tie_weights(tied_to)


def apply_embedding(layer: torch.nn.Module, ids: ms.Tensor) -> ms.Tensor:
    """Return the embeddings of token ids: [T] -> [T, hidden]."""
    return to_mindspore(layer(to_torch(ids)))
