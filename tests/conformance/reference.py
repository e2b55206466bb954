"""Every op of mszoo.kernels.spec once more, in the plainest torch: what implementations are held to.

Each function takes the op's arguments by name and computes in their dtype; give float64 for the exact result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import numpy as np

from mszoo.kernels.spec import SPECS


def rms(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise the last axis to a mean square of 1, then scale."""
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


class Reference:
    """The ops by name; what they mean is in mszoo.kernels.spec."""

    @staticmethod
    def embedding(ids: Tensor, weight: Tensor) -> Tensor:
        return weight[ids]

    @staticmethod
    def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return x @ weight.T + bias

    @staticmethod
    def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return rms(x, weight, eps)

    @staticmethod
    def fused_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return rms(x + residual, weight, eps), x + residual

    @staticmethod
    def qk_norm(
        qkv: Tensor, q_weight: Tensor, k_weight: Tensor, eps: float, num_heads: int, num_kv_heads: int
    ) -> Tensor:
        heads = qkv.clone().view(len(qkv), num_heads + 2 * num_kv_heads, -1)
        heads[:, :num_heads] = rms(heads[:, :num_heads], q_weight, eps)
        keys = slice(num_heads, num_heads + num_kv_heads)
        heads[:, keys] = rms(heads[:, keys], k_weight, eps)
        return heads.view(qkv.shape)

    @staticmethod
    def rotary_embedding(
        positions: Tensor,
        qkv: Tensor,
        cos_sin_cache: Tensor,
        num_heads: int,
        num_kv_heads: int,
        interleaved: bool = False,
    ) -> Tensor:
        heads = qkv.clone().view(len(qkv), num_heads + 2 * num_kv_heads, -1)
        cos, sin = cos_sin_cache[positions][:, None].chunk(2, -1)
        turned = heads[:, : num_heads + num_kv_heads, : 2 * cos.shape[-1]]
        if interleaved:
            first, second = turned[..., ::2].clone(), turned[..., 1::2].clone()
            turned[..., ::2], turned[..., 1::2] = first * cos - second * sin, second * cos + first * sin
        else:
            first, second = turned.chunk(2, -1)
            turned.copy_(torch.cat([first * cos - second * sin, second * cos + first * sin], -1))
        return heads.view(qkv.shape)

    @staticmethod
    def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight + bias

    @staticmethod
    def silu(x: Tensor) -> Tensor:
        return x / (1 + (-x).exp())

    @staticmethod
    def gelu(x: Tensor) -> Tensor:
        return x * 0.5 * (1 + torch.erf(x / 2**0.5))

    @staticmethod
    def gelu_tanh(x: Tensor) -> Tensor:
        inner = (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)
        return x * 0.5 * (1 + torch.tanh(inner))

    @staticmethod
    def relu(x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def relu2(x: Tensor) -> Tensor:
        return x.clamp(min=0) ** 2

    @staticmethod
    def quick_gelu(x: Tensor) -> Tensor:
        return x / (1 + (-1.702 * x).exp())

    @staticmethod
    def encoder_attention(qkv: Tensor, num_sequences: int, num_heads: int, scale: float) -> Tensor:
        rows = []
        for sequence in qkv.chunk(num_sequences):
            query, key, value = sequence.view(len(sequence), 3, num_heads, -1).unbind(1)
            scores = torch.einsum("qhd,khd->hqk", query, key) * scale
            rows.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).flatten(1))
        return torch.cat(rows)

    @staticmethod
    def silu_and_mul(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)
        return Reference.silu(gate) * up

    @staticmethod
    def gelu_and_mul(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)
        return Reference.gelu(gate) * up

    @staticmethod
    def gelu_tanh_and_mul(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)
        return Reference.gelu_tanh(gate) * up

    @staticmethod
    def paged_attention(
        query: Tensor,
        kv_cache: Tensor,
        block_table: Tensor,
        query_start: list[int],
        seq_lens: list[int],
        scale: float,
        num_kv_heads: int,
        sliding_window: int | None = None,
        softcap: float = 0.0,
    ) -> Tensor:
        group = query.shape[1] // num_kv_heads
        kv_cache = kv_cache.unflatten(0, (-1, num_kv_heads, 2))
        rows = []
        for sequence, length in enumerate(seq_lens):
            # [n, G, 2, block, D] -> [2, tokens, G, D]
            pages = kv_cache[block_table[sequence]].permute(2, 0, 3, 1, 4).flatten(1, 2)[:, :length]
            keys, values = pages.repeat_interleave(group, 2)
            first = query_start[sequence]
            tokens = query_start[sequence + 1] - first
            for token in range(tokens):
                seen = length - tokens + token + 1
                start = max(0, seen - sliding_window) if sliding_window else 0
                scores = torch.einsum("hd,lhd->hl", query[first + token], keys[start:seen]) * scale
                if softcap:
                    scores = torch.tanh(scores / softcap) * softcap
                rows.append(torch.einsum("hl,lhd->hd", scores.softmax(-1), values[start:seen]).flatten())
        return torch.stack(rows)


def reference(op: str, arguments: Mapping[str, Any]) -> Any:
    """Compute an op in the dtype of its arguments."""
    return getattr(Reference, op)(**arguments)


def example(op: str, tokens: int, dtype: torch.dtype) -> dict[str, Any]:
    """Make the arguments of an op's example in torch, floats in ``dtype``."""
    made = SPECS[op].example(np.random.default_rng(tokens), tokens)
    return {name: as_torch(value, dtype) for name, value in made.items()}


def as_torch(value: Any, dtype: torch.dtype) -> Any:
    """Return a numpy array as a tensor, floats in ``dtype``; other values as they are."""
    if not isinstance(value, np.ndarray):
        return value
    tensor = torch.from_numpy(value)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def exact(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments with floats in float64."""
    return {
        name: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in arguments.items()
    }


def compare(op: str, dtype: str, ours: Any, expected: Any, tolerance: float | None = None) -> None:
    """Assert that results have the right shape, the dtype under test, and the values of the reference.

    Args:
        op: names the op in messages, and its spec's tolerance.
        dtype: "float32", "bfloat16" or "float16".
        ours: a torch tensor or a tuple of them.
        expected: the same in float64.
        tolerance: in place of the spec's; relative to the largest expected value.
    """
    allowed = SPECS[op].tolerance[dtype] if tolerance is None else tolerance
    ours = ours if isinstance(ours, tuple) else (ours,)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for got, want in zip(ours, expected, strict=True):
        assert got.shape == want.shape, f"{op} gives {list(got.shape)}, not {list(want.shape)}"
        assert str(got.dtype) == f"torch.{dtype}", f"{op} of {dtype} gives {got.dtype}"
        worst = (got.double() - want).abs().max() / want.abs().max()
        assert worst <= allowed, f"{op} in {dtype} is off by {worst:.1e}, {allowed:.0e} is allowed"
