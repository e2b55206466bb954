"""vLLM's paged KV cache for a network that attends by itself, on a platform that keeps keys and values apart.

vllm-ascend does: a layer's ``kv_cache`` is a pair of tensors ``[blocks, block, G, D]``, and its metadata of a step
has the fields that :func:`current_sequences` reads. vLLM's CPU backend keeps both in one tensor of another layout;
networks attend through :class:`mszoo.layers.Attention` there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from mszoo.kernels.exchange import to_mindspore
from mszoo.layers.seam import VllmAttention, get_current_vllm_config, get_forward_context
from mszoo.registry.errors import RefusalError

import mindspore as ms

#: Tokens of a block where there is no cache yet: vllm-ascend's.
_BLOCK = 128


class KVCache(VllmAttention):
    """One layer's part of vLLM's KV cache; the network reads and writes it, and nobody calls the layer.

    Args:
        num_heads: query heads H on this rank.
        head_size: D.
        num_kv_heads: key/value heads G on this rank.
        prefix: the layer's name, unique in the model.

    Raises:
        RefusalError: the cache is to have another dtype than the model.
    """

    def __init__(self, num_heads: int, head_size: int, num_kv_heads: int, *, prefix: str) -> None:
        vllm_config = get_current_vllm_config()
        cache_dtype = vllm_config.cache_config.cache_dtype
        if cache_dtype != "auto":
            raise RefusalError(
                "--kv-cache-dtype",
                f"the KV cache is to be {cache_dtype}, and a network that attends by itself writes its own dtype",
                "Serve without --kv-cache-dtype",
            )
        super().__init__(
            num_heads,
            head_size,
            head_size**-0.5,
            num_kv_heads=num_kv_heads,
            cache_config=vllm_config.cache_config,
            quant_config=vllm_config.quant_config,
            prefix=prefix,
        )

    def key_value(self) -> tuple[ms.Tensor, ms.Tensor]:
        """Return views of the pages of keys and of values: [blocks, block, G, D] each.

        Raises:
            RefusalError: the platform keeps them otherwise.
        """
        pages: Any = self.kv_cache
        shape = (self.num_kv_heads, self.head_size)
        if len(pages) != 2 or any(page.dim() != 4 or page.shape[2:] != shape for page in pages):
            found = [list(page.shape) for page in pages] if isinstance(pages, tuple) else list(pages.shape)
            raise RefusalError(
                self.layer_name,
                f"its KV cache has shape {found}, and the network writes keys and values to two tensors "
                f"[blocks, block, {self.num_kv_heads}, {self.head_size}]",
                "Serve the model with another implementation",
            )
        key, value = pages
        return to_mindspore(key), to_mindspore(value)


@dataclass(frozen=True)
class Sequences:
    """The sequences of a step, B of them with T new tokens together; int32 tensors, on the step's device.

    Attributes:
        query_lens: new tokens of each, [B].
        seq_lens: new tokens and those before, [B].
        block_tables: the blocks of each, [B, blocks].
        slot_mapping: where each new token's key and value go, [T]: block times block size, plus offset.
    """

    query_lens: torch.Tensor
    seq_lens: torch.Tensor
    block_tables: torch.Tensor
    slot_mapping: torch.Tensor

    @cached_property
    def context_lens(self) -> torch.Tensor:
        """Tokens before the new ones, [B]."""
        return self.seq_lens - self.query_lens

    @cached_property
    def are_new(self) -> bool:
        """Whether none has tokens from earlier steps; the device is asked once."""
        return not bool(self.context_lens.any())


def whole_step(
    tokens: int, longest: int, caches: Sequence[KVCache], device: torch.device
) -> tuple[Sequences, list[tuple[ms.Tensor, ms.Tensor]]]:
    """Return new sequences and pages for a step that vLLM takes without any, to see how much memory it needs.

    Layers of one shape share their pages, since nobody reads them later.

    Args:
        tokens: T of the step.
        longest: tokens of a sequence at most.
        caches: by layer.
        device: of the tensors.

    Returns:
        The sequences, and by layer the pages as of :meth:`KVCache.key_value`.
    """
    lens = torch.tensor([longest] * (tokens // longest) + [tokens % longest] * (tokens % longest > 0))
    per_sequence = -(-longest // _BLOCK)
    per_block = per_sequence * _BLOCK
    places = torch.cat([torch.arange(count) + row * per_block for row, count in enumerate(lens.tolist())])
    tables = torch.arange(len(lens) * per_sequence).view(len(lens), -1)
    query_lens, block_tables, slots = (item.to(device, torch.int32) for item in (lens, tables, places))
    shared: dict[tuple[int, int], tuple[ms.Tensor, ms.Tensor]] = {}
    for cache in caches:
        heads = cache.num_kv_heads, cache.head_size
        if heads not in shared:
            shape, dtype = (tables.numel(), _BLOCK, *heads), cache.kv_cache_torch_dtype
            key, value = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
            shared[heads] = to_mindspore(key), to_mindspore(value)
    pages = [shared[cache.num_kv_heads, cache.head_size] for cache in caches]
    return Sequences(query_lens, query_lens, block_tables, slots), pages


def current_sequences(layer_name: str) -> Sequences | None:
    """Return the sequences of the step that vLLM is running; None while it warms up, on no sequences.

    Args:
        layer_name: of a :class:`KVCache`; the layers of a model have the same.
    """
    metadata: Any = get_forward_context().attn_metadata
    if metadata is None:
        return None
    if isinstance(metadata, dict):
        metadata = metadata[layer_name]
    starts = metadata.query_start_loc
    return Sequences(
        query_lens=(starts[1:] - starts[:-1]).int(),
        seq_lens=metadata.seq_lens.to(starts.device).int(),
        block_tables=metadata.block_tables[: len(starts) - 1].int(),
        slot_mapping=metadata.slot_mapping[: metadata.num_actual_tokens].int(),
    )
