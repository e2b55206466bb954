"""Attention's metadata and KV cache, as vllm-ascend has them."""

from dataclasses import dataclass, fields
from typing import Any

import torch

from vllm.v1.attention.backend import MultipleOf
from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackend,
    CPUAttentionMetadata,
    CPUAttentionMetadataBuilder,
)


@dataclass
class StandInMetadata(CPUAttentionMetadata):
    """The CPU's, with the block table under vllm-ascend's name too."""

    @property
    def block_tables(self) -> torch.Tensor:
        return self.block_table


class StandInMetadataBuilder(CPUAttentionMetadataBuilder):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head_dim = min(self.head_dim, 512)  # sizes the work space of a kernel that isn't called for more

    def build(self, *args: Any, **kwargs: Any) -> StandInMetadata:
        metadata = super().build(*args, **kwargs)
        return StandInMetadata(**{field.name: getattr(metadata, field.name) for field in fields(metadata)})


class StandInBackend(CPUAttentionBackend):
    @classmethod
    def get_supported_head_sizes(cls) -> list[int]:
        return [*super().get_supported_head_sizes(), 576]

    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec: Any = None) -> list[int | MultipleOf]:
        return [MultipleOf(16)]

    @staticmethod
    def get_builder_cls() -> type[StandInMetadataBuilder]:
        return StandInMetadataBuilder


def give_pairs(layers: dict[str, Any], blocks: int, block_size: int) -> None:
    """Give the layers that nobody calls a pair of tensors, keys and values, each [blocks, block, heads, size]."""
    for layer in layers.values():
        if hasattr(layer, "key_value"):
            shape = (blocks, block_size, layer.num_kv_heads, layer.head_size)
            dtype = layer.kv_cache_torch_dtype
            layer.kv_cache = (torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype))
