"""How the suite's own network is called on NPU: what it wants to know of a step beside the tokens.

The names and shapes are the suite's, as its inference networks and the vLLM-MindSpore plugin, which drives them,
have them. A step without earlier tokens runs FlashAttention, every other one PagedAttention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mszoo.kernels.exchange import TORCH_DTYPE, to_mindspore
from mszoo.layers.kv_cache import Sequences

import mindspore as ms

#: The side of FlashAttention's mask, whatever the length: the op repeats it along the diagonal.
_FLASH_MASK = 128
#: What hides a key; 1 does in bfloat16, for FlashAttention and on a latent cache.
_HIDDEN = -10000.0


def step_inputs(
    input_ids: ms.Tensor,
    positions: ms.Tensor,
    sequences: Sequences,
    pages: Sequence[tuple[ms.Tensor, ms.Tensor]],
    config: Any,
) -> dict[str, Any]:
    """Return the arguments of the suite's ``GPTModel``, indices as int32.

    Args:
        input_ids, positions: [T].
        sequences: the step's.
        pages: of keys and of values, by layer.
        config: the network's ``TransformerConfig``.
    """
    latent = config.multi_latent_attention
    mask = attention_mask(sequences, TORCH_DTYPE[config.compute_dtype], latent=latent)
    return {
        "input_ids": input_ids.astype(ms.int32),
        "positions": positions.astype(ms.int32),
        "batch_valid_length": to_mindspore(sequences.seq_lens),
        "q_seq_lens": to_mindspore(sequences.query_lens),
        "context_lens_tensor": to_mindspore(sequences.context_lens),
        "block_tables": to_mindspore(sequences.block_tables.contiguous()),
        "slot_mapping": to_mindspore(sequences.slot_mapping),
        "attention_mask": to_mindspore(mask),
        "key_cache": ms.mutable([key for key, _ in pages]),
        "value_cache": None if latent else ms.mutable([value for _, value in pages]),
    }


def attention_mask(sequences: Sequences, dtype: torch.dtype, *, latent: bool) -> torch.Tensor:
    """Return the mask that the step's attention takes.

    Args:
        sequences: the step's.
        dtype: of the mask.
        latent: the cache is.

    Returns:
        [128, 128] above the diagonal where no sequence has earlier tokens; [T, longest sequence] by position where
        one has and brings several tokens; [1, 1], which hides nothing, where each brings one.
    """
    device = sequences.seq_lens.device
    prefill = sequences.are_new
    hidden = 1.0 if dtype is torch.bfloat16 and (prefill or latent) else _HIDDEN
    if prefill:
        return torch.full((_FLASH_MASK, _FLASH_MASK), hidden, dtype=dtype, device=device).triu(1)
    if int(sequences.query_lens.max()) == 1:
        return torch.zeros(1, 1, dtype=dtype, device=device)
    keys = torch.arange(int(sequences.seq_lens.max()), device=device)
    return (keys > _positions(sequences)[:, None]).to(dtype) * hidden


def _positions(sequences: Sequences) -> torch.Tensor:
    """Return the place of each new token in its sequence, [T]."""
    query_lens = sequences.query_lens.long()
    ends = query_lens.cumsum(0)
    first = (ends - query_lens - sequences.context_lens).repeat_interleave(query_lens)
    return torch.arange(int(ends[-1]), device=first.device) - first
