"""Every kernel against the same computation in float64: both sets, all dtypes, odd numbers of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mszoo.kernels import dispatch, runtime
from mszoo.kernels.spec import SPECS
from mszoo.registry.errors import RefusalError

runtime.prepare("cpu")
from mszoo.kernels.exchange import to_mindspore, to_torch  # noqa: E402

DTYPES = ("float32", "bfloat16", "float16")
CASES = [("mindspore", op, "float32") for op in SPECS] + [
    ("cpu", op, dtype) for op in SPECS if op not in dispatch.VLLM_OWNED for dtype in DTYPES
]
TENSORS = (torch.Tensor,)


def rms(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def reference(op: str, a: dict[str, Any]) -> Any:
    """Compute an op in the dtype of its arguments, in the plainest way."""
    return getattr(Reference, op)(**a)


class Reference:
    @staticmethod
    def embedding(ids, weight):
        return weight[ids]

    @staticmethod
    def linear(x, weight, bias):
        return x @ weight.T + bias

    @staticmethod
    def rms_norm(x, weight, eps):
        return rms(x, weight, eps)

    @staticmethod
    def fused_add_rms_norm(x, residual, weight, eps):
        return rms(x + residual, weight, eps), x + residual

    @staticmethod
    def qk_norm(qkv, q_weight, k_weight, eps, num_heads, num_kv_heads):
        heads = qkv.clone().view(len(qkv), num_heads + 2 * num_kv_heads, -1)
        heads[:, :num_heads] = rms(heads[:, :num_heads], q_weight, eps)
        keys = slice(num_heads, num_heads + num_kv_heads)
        heads[:, keys] = rms(heads[:, keys], k_weight, eps)
        return heads.view(qkv.shape)

    @staticmethod
    def rotary_embedding(positions, qkv, cos_sin_cache, num_heads, num_kv_heads):
        heads = qkv.clone().view(len(qkv), num_heads + 2 * num_kv_heads, -1)
        cos, sin = cos_sin_cache[positions][:, None].chunk(2, -1)
        turned = heads[:, : num_heads + num_kv_heads, : 2 * cos.shape[-1]]
        first, second = turned.chunk(2, -1)
        turned.copy_(torch.cat([first * cos - second * sin, second * cos + first * sin], -1))
        return heads.view(qkv.shape)

    @staticmethod
    def silu_and_mul(x):
        gate, up = x.chunk(2, -1)
        return gate / (1 + (-gate).exp()) * up

    @staticmethod
    def gelu_and_mul(x):
        gate, up = x.chunk(2, -1)
        return gate * 0.5 * (1 + torch.erf(gate / 2**0.5)) * up

    @staticmethod
    def gelu_tanh_and_mul(x):
        gate, up = x.chunk(2, -1)
        inner = (2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3)
        return gate * 0.5 * (1 + torch.tanh(inner)) * up

    @staticmethod
    def paged_attention(
        query,
        kv_cache,
        block_table,
        query_start,
        seq_lens,
        scale,
        sliding_window=None,
        softcap=0.0,
    ):
        size, group = query.shape[-1], query.shape[1] // kv_cache.shape[1]
        rows = []
        for sequence, length in enumerate(seq_lens):
            pages = kv_cache[block_table[sequence]].transpose(1, 2).flatten(0, 1)[:length]
            keys, values = (x.repeat_interleave(group, 1) for x in pages.split(size, -1))
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


def arguments(op: str, tokens: int, dtype: torch.dtype) -> dict[str, Any]:
    """Make an op's example in torch, floats in ``dtype``."""
    example = SPECS[op].example(np.random.default_rng(tokens), tokens)

    def convert(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        tensor = torch.from_numpy(value)
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    return {name: convert(value) for name, value in example.items()}


def compare(op: str, dtype: str, ours: Any, expected: Any) -> None:
    ours = ours if isinstance(ours, tuple) else (ours,)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for got, want in zip(ours, expected, strict=True):
        assert got.shape == want.shape
        assert str(got.dtype) == f"torch.{dtype}"
        worst = (got.double() - want).abs().max() / want.abs().max()
        assert worst <= SPECS[op].tolerance[dtype], f"{op} in {dtype} is off by {worst:.1e}"


def run(kernel_set: str, op: str, given: dict[str, Any]) -> Any:
    function = dispatch.choose(kernel_set, "cpu", "float32").function(op)
    own = {
        name: to_mindspore(value.clone()) if isinstance(value, TENSORS) else value
        for name, value in given.items()
    }
    result = function(**own)
    return tuple(map(to_torch, result)) if isinstance(result, tuple) else to_torch(result)


@pytest.mark.parametrize("tokens", [1, 7, 33])
@pytest.mark.parametrize(("kernel_set", "op", "dtype"), CASES)
def test_kernel_means_what_its_spec_says(kernel_set: str, op: str, dtype: str, tokens: int) -> None:
    given = arguments(op, tokens, getattr(torch, dtype))
    exact = {
        name: value.double() if isinstance(value, TENSORS) and value.is_floating_point() else value
        for name, value in given.items()
    }
    compare(op, dtype, run(kernel_set, op, given), reference(op, exact))


@pytest.mark.parametrize(
    "extra", [{"sliding_window": 4}, {"softcap": 5.0}, {"sliding_window": 1, "softcap": 2.0}]
)
def test_paged_attention_window_and_softcap(extra: dict[str, Any]) -> None:
    given = arguments("paged_attention", 7, torch.float32) | extra
    compare(
        "paged_attention",
        "float32",
        run("mindspore", "paged_attention", given),
        reference("paged_attention", given),
    )


def test_rotary_embedding_of_a_part_of_each_head() -> None:
    given = arguments("rotary_embedding", 5, torch.float32)
    given["cos_sin_cache"] = given["cos_sin_cache"][:, 4:28].contiguous()  # 12 cosines, 12 sines: 24 of 32
    ours = run("mindspore", "rotary_embedding", given)
    compare("rotary_embedding", "float32", ours, reference("rotary_embedding", given))
    compare("rotary_embedding", "float32", run("cpu", "rotary_embedding", given), ours)


def test_no_mindspore_op_runs_where_nothing_is_known() -> None:
    with pytest.raises(
        RefusalError, match=r"float32 only, and the model's dtype is bfloat16\. Serve with --dtype"
    ):
        dispatch.choose("mindspore", "cpu", "bfloat16")
    with pytest.raises(RefusalError, match="the ascend kernel set is not part of this version"):
        dispatch.choose("ascend", "npu", "bfloat16")
    with pytest.raises(RefusalError, match="its kernels run on CPU and this is npu"):
        dispatch.choose("cpu", "npu", "bfloat16")
    assert set(dispatch.choose("auto", "npu", "bfloat16").sets.values()) == {"mindspore"}
    assert set(dispatch.choose("auto", "cpu", "bfloat16").sets.values()) == {"cpu"}
