"""Token embedding and logits: weights in vLLM's vocabulary-parallel layers."""

from __future__ import annotations

import torch
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

import mindspore as ms  # isort: skip
from mszoo.kernels.exchange import to_mindspore, to_torch  # isort: skip
from mszoo.layers.methods import quant_config  # isort: skip

__all__ = ["LogitsProcessor", "apply_embedding", "lm_head", "token_embedding"]


def token_embedding(vocab_size: int, hidden_size: int, *, prefix: str) -> VocabParallelEmbedding:
    """Make the embedding table [vocab, hidden], rows split over ranks."""
    return VocabParallelEmbedding(vocab_size, hidden_size, quant_config=quant_config(), prefix=prefix)


def lm_head(
    vocab_size: int, hidden_size: int, *, prefix: str, tied_to: VocabParallelEmbedding | None = None
) -> ParallelLMHead:
    """Make the output projection [vocab, hidden]; ``tied_to`` shares the embedding's weight."""
    head = ParallelLMHead(vocab_size, hidden_size, quant_config=quant_config(), prefix=prefix)
    return head if tied_to is None else head.tie_weights(tied_to)


def apply_embedding(layer: torch.nn.Module, ids: ms.Tensor) -> ms.Tensor:
    """Return the embeddings of token ids: [T] -> [T, hidden]."""
    return to_mindspore(layer(to_torch(ids)))
