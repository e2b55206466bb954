"""What the layers of one step share with the ``mindspore`` kernel set, and how it stores keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional

from mszoo.kernels.exchange import to_mindspore
from mszoo.kernels.shapes import rounded_up
from mszoo.layers.seam import ForwardContext, get_forward_context

import mindspore as ms

if TYPE_CHECKING:  # it stands on vLLM's CPU backend
    from mszoo.layers.seam_cpu import CPUAttentionMetadata


class Piece(NamedTuple):
    """Rows of a step: queries of one sequence, or one query of each of several.

    Attributes:
        row, rows: the first one, and how many.
        sequence, sequences: the first one, and how many.
        cached: tokens before the first query of the sequence that has most of them.
    """

    row: int
    rows: int
    sequence: int
    sequences: int
    cached: int


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

    def used(self, kv_cache: torch.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """Return the blocks that the step attends to, as a cache of their own, and the block table for it.

        They are gathered by torch: op by op, MindSpore copies all of a foreign tensor to read any of it.

        Args:
            kv_cache: vLLM's.

        Returns:
            ``kv_cache`` and ``block_table`` of the op ``paged_attention``. The cache has blocks behind those that
            are used, for a number of them that returns.
        """
        cache = pages(kv_cache)
        size = cache.shape[3]
        if size not in self._used:
            blocks = -(-max(self.seq_lens) // size)
            table = self._metadata.block_table[: len(self.seq_lens), :blocks]
            own = torch.arange(table.numel(), dtype=torch.int32).view(table.shape)
            index = table.flatten().long()
            index = functional.pad(index, (0, rounded_up(len(index)) - len(index)))
            self._used[size] = index, to_mindspore(own)
        index, table_of_own = self._used[size]
        return to_mindspore(cache[index].flatten(0, 2)), table_of_own

    def pieces(self, most_sequences: int, most_queries: int) -> list[Piece]:
        """Return the step in pieces that graphs take, in the order in which they are to be computed.

        Args:
            most_sequences: of a piece, with one query each.
            most_queries: of a piece, of one sequence.
        """
        pieces: list[Piece] = []
        sequence = 0
        while sequence < len(self.seq_lens):
            first, last = self.query_start[sequence], sequence + 1
            queries = self.query_start[last] - first
            cached = self.seq_lens[sequence] - queries
            if queries > 1:
                for done in range(0, queries, most_queries):
                    rows = min(most_queries, queries - done)
                    pieces.append(Piece(first + done, rows, sequence, 1, cached + done))
            elif queries:
                while (
                    last < len(self.seq_lens)
                    and last - sequence < most_sequences
                    and self.query_start[last + 1] - self.query_start[last] == 1
                ):
                    last += 1
                longest = max(self.seq_lens[sequence:last]) - 1
                pieces.append(Piece(first, last - sequence, sequence, last - sequence, longest))
            sequence = last
        return pieces

    def tables(self, piece: Piece, sequences: int, blocks: int) -> tuple[ms.Tensor, ms.Tensor]:
        """Return a piece's sequences as a graph takes them, with rows and columns that are any.

        Args:
            piece: of this step.
            sequences, blocks: B and n, of the graph.

        Returns:
            ``block_table`` [B, n] and ``start`` [B] of :class:`mszoo.kernels.graphs.DecoderCell`, int32.
        """
        own = slice(piece.sequence, piece.sequence + piece.sequences)
        table = torch.zeros(sequences, blocks, dtype=torch.int32)
        used = self._metadata.block_table[own, :blocks]
        table[: piece.sequences, : used.shape[1]] = used
        start = torch.zeros(sequences, dtype=torch.int32)
        if piece.sequences == 1:
            start[0] = piece.cached
        else:
            start[: piece.sequences] = self._metadata.seq_lens[own] - 1
        return to_mindspore(table), to_mindspore(start)


class Step:
    """What the first layer that asks computes for all.

    Args:
        context: vLLM's context of the step. It is kept, so what it refers to stays the step's.
    """

    def __init__(self, context: ForwardContext) -> None:
        self.context = context
        self._slots: dict[tuple[int, int, int], tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        self._batches: dict[int, Batch] = {}

    def slots(
        self, slot_mapping: torch.Tensor, block_size: int, first: int, rows: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return row, block and offset [T] of each real token's slot, of ``rows`` rows from ``first`` on."""
        key = id(slot_mapping), first, rows
        found = self._slots.get(key)
        if found is None:
            # Padding is -1, and so is a token that a draft model proposed and the target rejected: among others.
            part = slot_mapping[first : first + rows]
            own = (part >= 0).nonzero().flatten()
            slots = part[own]
            found = self._slots[key] = own, slots // block_size, slots % block_size
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


def store(
    step: Step, kv_cache: torch.Tensor, slot_mapping: torch.Tensor, pairs: torch.Tensor, first: int = 0
) -> None:
    """Put keys beside values [T, G, 2, D] into the slots of the rows from ``first`` on that have one."""
    cache = pages(kv_cache)
    row, block, offset = step.slots(slot_mapping, cache.shape[3], first, pairs.shape[0])
    cache[block, :, :, offset] = pairs[row]
