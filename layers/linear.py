"""Linear layers: weights in vLLM's parallel layers, products by the chosen kernel set.

The factories return vLLM's own classes, so sharding, Multi-LoRA, quantized checkpoints and weight loading are
vLLM's. Who multiplies is decided in :mod:`mszoo.layers.methods`.
"""

from __future__ import annotations

import torch

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.methods import quant_config
from mszoo.layers.seam import (
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
    get_tensor_model_parallel_world_size,
)
from mszoo.registry.errors import RefusalError

import mindspore as ms


class WholeLinear(ReplicatedLinear):
    """A projection that every rank computes whole, on tensors of any rank: [..., in] -> [..., out]."""

    def __init__(self, input_size: int, output_size: int, *, bias: bool, prefix: str) -> None:
        super().__init__(
            input_size, output_size, bias=bias, quant_config=quant_config(), prefix=prefix, return_bias=False
        )

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """Return the product."""
        flat = to_torch(x).reshape(-1, self.input_size)
        return to_mindspore(super().forward(flat).view(*x.shape[:-1], self.output_size))


def heads_on_this_rank(num_heads: int, num_kv_heads: int) -> tuple[int, int]:
    """Return the query and key/value heads of this tensor-parallel rank.

    Fewer key/value heads than ranks are replicated, as vLLM's QKVParallelLinear does.

    Raises:
        RefusalError: the heads can't be shared out evenly.
    """
    ranks = get_tensor_model_parallel_world_size()
    if num_heads % ranks or (num_kv_heads % ranks and ranks % num_kv_heads):
        raise RefusalError(
            "config.json",
            f"{num_heads} heads and {num_kv_heads} key/value heads can't be split over {ranks} ranks",
            "Choose another --tensor-parallel-size",
        )
    return num_heads // ranks, max(1, num_kv_heads // ranks)


def apply_linear(layer: torch.nn.Module, x: ms.Tensor) -> ms.Tensor:
    """Return ``layer(x)`` of a vLLM linear layer, or the LoRA layer in its place: [T, in] -> [T, out]."""
    y = layer(to_torch(x))
    return to_mindspore(y[0] if isinstance(y, tuple) else y)


def qkv_linear(
    hidden_size: int, head_size: int, num_heads: int, num_kv_heads: int, *, bias: bool, prefix: str
) -> QKVParallelLinear:
    """Make the fused query, key and value projection: [T, hidden] -> [T, (H + 2 G) D]."""
    return QKVParallelLinear(
        hidden_size,
        head_size,
        num_heads,
        num_kv_heads,
        bias=bias,
        quant_config=quant_config(),
        prefix=prefix,
        return_bias=False,
    )


def gate_up_linear(
    hidden_size: int, intermediate_size: int, *, bias: bool, prefix: str
) -> MergedColumnParallelLinear:
    """Make the fused gate and up projection of a gated MLP: [T, hidden] -> [T, 2 intermediate]."""
    return MergedColumnParallelLinear(
        hidden_size,
        [intermediate_size] * 2,
        bias=bias,
        quant_config=quant_config(),
        prefix=prefix,
        return_bias=False,
    )


def column_linear(input_size: int, output_size: int, *, bias: bool, prefix: str) -> ColumnParallelLinear:
    """Make a projection whose output is split over ranks: [T, in] -> [T, out]."""
    return ColumnParallelLinear(
        input_size, output_size, bias=bias, quant_config=quant_config(), prefix=prefix, return_bias=False
    )


def row_linear(input_size: int, output_size: int, *, bias: bool, prefix: str) -> RowParallelLinear:
    """Make a projection whose input is split over ranks and whose output is summed: [T, in] -> [T, out]."""
    return RowParallelLinear(
        input_size, output_size, bias=bias, quant_config=quant_config(), prefix=prefix, return_bias=False
    )
