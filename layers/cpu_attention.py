"""How the ``mindspore`` kernel set attends on a CPU: vLLM's backend there with MindSpore's arithmetic."""

from __future__ import annotations

from typing import Any

import torch

from mszoo.kernels import dispatch
from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.seam_cpu import (
    CPUAttentionBackend,
    CPUAttentionBackendImpl,
    CPUAttentionMetadata,
    sliding_window_of,
)
from mszoo.layers.step import current_step, store


class MindSporeAttentionBackend(CPUAttentionBackend):
    """vLLM's CPU attention backend with MindSpore's arithmetic.

    Block sizes, metadata and scheduling are vLLM's. A block's memory is laid out ``[G, 2, block, D]``, keys and
    then values of each head; nobody else reads the blocks of these layers.
    """

    # vLLM calls do_kv_cache_update before forward; the CPU backend of 0.23 stored keys and values inside forward.
    forward_includes_kv_cache_update: bool = False

    @staticmethod
    def get_impl_cls() -> type[MindSporeAttentionImpl]:
        """Return the class that attends."""
        return MindSporeAttentionImpl


class MindSporeAttentionImpl(CPUAttentionBackendImpl):
    """Attends with the ``paged_attention`` kernel of the ``mindspore`` set or of a suite."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._paged_attention = dispatch.current().function("paged_attention")
        self._window = sliding_window_of(self)

    def do_kv_cache_update(
        self,
        layer: torch.nn.Module,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Put keys and values [T, G, D] into the slots of ``kv_cache`` [blocks, G, block, 2 D].

        MindSpore computed both; storing them is torch's part, because MindSpore's CPU ops write copies instead
        of foreign memory.
        """
        store(current_step(), kv_cache, slot_mapping, torch.stack((key, value), 2))

    def forward(
        self,
        layer: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: CPUAttentionMetadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend ``query`` [T, H, D] and write ``output`` [T, H, D]; rows that pad the step are left."""
        if attn_metadata is None:  # vLLM's warm-up
            return output
        tokens = attn_metadata.num_actual_tokens
        batch = current_step().batch(attn_metadata)
        used_cache, block_table = batch.used(kv_cache)
        attended = self._paged_attention(
            to_mindspore(query[:tokens]),
            used_cache,
            block_table,
            batch.query_start,
            batch.seq_lens,
            self.scale,
            self.num_kv_heads,
            self._window,
            self.logits_soft_cap,
        )
        output[:tokens] = to_torch(attended).view(tokens, self.num_heads, self.head_size)
        return output
