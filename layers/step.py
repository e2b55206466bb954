"""What the layers of one step share with the ``mindspore`` kernel set, and how it stores keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mszoo.kernels.exchange import to_mindspore
from mszoo.layers.seam import ForwardContext, get_forward_context

import mindspore as ms

if TYPE_CHECKING:  # it stands on vLLM's CPU backend
    from mszoo.layers.seam_cpu import CPUAttentionMetadata


class Batch:
    """The sequences of a step, in the forms that attention takes.

    Args:
        metadata: vLLM's.

    Attributes:
        query_start, seq_lens: as the op ``paged_attention`` takes them.
    """

    def __init__(self, metadata: CPUAttentionMetadata) -> None:
        self._metadata = metadata
        self.query_start: list[int] = metadata.query_start_loc.tolist()
        self.seq_lens: list[int] = metadata.seq_lens.tolist()
        self._used: dict[int, tuple[torch.Tensor, ms.Tensor]] = {}
        self._padded: dict[tuple[int, int], tuple[ms.Tensor, ms.Tensor] | None] = {}

    def used(self, kv_cache: torch.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """Return the blocks that the step attends to, as a cache of their own, and the block table for it.

        They are gathered by torch: op by op, MindSpore copies all of a foreign tensor to read any of it.

        Args:
            kv_cache: vLLM's.

        Returns:
            ``kv_cache`` and ``block_table`` of the op ``paged_attention``.
        """
        cache = pages(kv_cache)
        size = cache.shape[3]
        if size not in self._used:
            blocks = -(-max(self.seq_lens) // size)
            table = self._metadata.block_table[: len(self.seq_lens), :blocks]
            own = torch.arange(table.numel(), dtype=torch.int32).view(table.shape)
            self._used[size] = table.flatten().long(), to_mindspore(own)
        index, table_of_own = self._used[size]
        return to_mindspore(cache[index].flatten(0, 2)), table_of_own

    def padded(self, rows: int, block_size: int) -> tuple[ms.Tensor, ms.Tensor] | None:
        """Return the batch as a graph takes it; None if it has chunks of several tokens beside other sequences.

        Args:
            rows: queries of the step, padding included.
            block_size: tokens in a block.

        Returns:
            ``block_table`` [B, n] and ``start`` [B] of :class:`mszoo.kernels.graphs.DecoderCell`, int32: B is
            ``rows`` where every sequence has one query, and 1 for a sequence alone; n is a power of 4, since each
            is another graph.
        """
        key = rows, block_size
        if key not in self._padded:
            self._padded[key] = self._pad(rows, block_size)
        return self._padded[key]

    def _pad(self, rows: int, block_size: int) -> tuple[ms.Tensor, ms.Tensor] | None:
        sequences, tokens = len(self.seq_lens), self._metadata.num_actual_tokens
        if sequences not in (1, tokens):
            return None
        queries = tokens // sequences
        blocks = max(1, -(-(max(self.seq_lens) - queries) // block_size))
        size = rows if queries == 1 else 1
        table = torch.zeros(size, 4 ** (((blocks - 1).bit_length() + 1) // 2), dtype=torch.int32)
        table[:sequences, :blocks] = self._metadata.block_table[:, :blocks]
        start = torch.zeros(size, dtype=torch.int32)
        start[:sequences] = self._metadata.seq_lens - queries
        return to_mindspore(table), to_mindspore(start)


class Step:
    """What the first layer that asks computes for all.

    Args:
        context: vLLM's context of the step. It is kept, so what it refers to stays the step's.
    """

    def __init__(self, context: ForwardContext) -> None:
        self.context = context
        self._slots: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        self._batches: dict[int, Batch] = {}

    def slots(
        self, slot_mapping: torch.Tensor, block_size: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return row, block and offset [T] of each real token's slot."""
        found = self._slots.get(id(slot_mapping))
        if found is None:
            # Padding is -1, and so is a token that a draft model proposed and the target rejected: among others.
            rows = (slot_mapping >= 0).nonzero().flatten()
            slots = slot_mapping[rows]
            found = self._slots[id(slot_mapping)] = rows, slots // block_size, slots % block_size
        return found

    def batch(self, metadata: CPUAttentionMetadata) -> Batch:
        """Return the step's sequences."""
        found = self._batches.get(id(metadata))
        if found is None:
            found = self._batches[id(metadata)] = Batch(metadata)
        return found


_steps: list[Step] = []


def current_step() -> Step:
    """Return what the layers of the step that vLLM is running share."""
    context = get_forward_context()
    if not _steps or _steps[0].context is not context:
        _steps[:] = [Step(context)]
    return _steps[0]


def pages(kv_cache: torch.Tensor) -> torch.Tensor:
    """View vLLM's cache [blocks, G, block, 2 D] as keys, then values of each head: [blocks, G, 2, block, D]."""
    blocks, kv_heads, block_size, size = kv_cache.shape
    return kv_cache.view(blocks, kv_heads, 2, block_size, size // 2)


def rows_of(kv_cache: torch.Tensor) -> torch.Tensor:
    """View vLLM's cache as the op ``paged_attention`` takes it: [2 G blocks, block, D]."""
    return pages(kv_cache).flatten(0, 2)


def store(step: Step, kv_cache: torch.Tensor, slot_mapping: torch.Tensor, pairs: torch.Tensor) -> None:
    """Put keys beside values [T, G, 2, D] into their slots; rows without one are left out."""
    cache = pages(kv_cache)
    row, block, offset = step.slots(slot_mapping, cache.shape[3])
    cache[block, :, :, offset] = pairs[row]
