"""Every kernel against the same computation in float64: both sets, all dtypes, odd numbers of tokens."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import torch

import pytest

from mszoo.conformance.reference import compare, exact, example, reference
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
    given = example(op, tokens, getattr(torch, dtype))
    compare(op, dtype, run(kernel_set, op, given), reference(op, exact(given)))


@pytest.mark.parametrize(
    "extra", [{"sliding_window": 4}, {"softcap": 5.0}, {"sliding_window": 1, "softcap": 2.0}]
)
def test_paged_attention_window_and_softcap(extra: dict[str, Any]) -> None:
    given = example("paged_attention", 7, torch.float32) | extra
    compare(
        "paged_attention",
        "float32",
        run("mindspore", "paged_attention", given),
        reference("paged_attention", given),
    )


@pytest.mark.parametrize("kernel_set", ["mindspore", "cpu"])
def test_qk_norm_of_one_key_head(kernel_set: str) -> None:
    """As of a model with one key/value head, or of a rank that has one of several."""
    given = example("qk_norm", 5, torch.float32) | {"num_heads": 6, "num_kv_heads": 1}
    ours = run(kernel_set, "qk_norm", given)
    compare("qk_norm", "float32", ours, reference("qk_norm", exact(given)))


def test_rotary_embedding_of_a_part_of_each_head() -> None:
    given = example("rotary_embedding", 5, torch.float32)
    given["cos_sin_cache"] = given["cos_sin_cache"][:, 4:28].contiguous()  # 12 cosines, 12 sines: 24 of 32
    ours = run("mindspore", "rotary_embedding", given)
    compare("rotary_embedding", "float32", ours, reference("rotary_embedding", given))
    compare("rotary_embedding", "float32", run("cpu", "rotary_embedding", given), ours)


def test_no_mindspore_op_runs_where_nothing_is_known() -> None:
    with pytest.raises(
        RefusalError, match=r"float32 only, and the model's dtype is bfloat16\. Serve with --dtype"
    ):
        dispatch.choose("mindspore", "cpu", "bfloat16")
    with pytest.raises(RefusalError, match="its kernels run on NPU and this is CPU"):
        dispatch.choose("ascend", "cpu", "bfloat16")
    with pytest.raises(RefusalError, match="its kernels run on CPU and this is NPU"):
        dispatch.choose("cpu", "npu", "bfloat16")
    assert set(dispatch.choose("auto", "npu", "bfloat16").sets.values()) == {"ascend"}
    assert set(dispatch.choose("auto", "cpu", "bfloat16").sets.values()) == {"cpu"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_norm_takes_a_part_of_wider_rows(dtype: str) -> None:
    wide = torch.randn(7, 96).to(getattr(torch, dtype))
    weight = to_mindspore(torch.randn(64).to(wide.dtype))
    norm = dispatch.choose("cpu", "cpu", "float32").function("rms_norm")
    part = norm(to_mindspore(wide[:, :64]), weight, 1e-6)
    assert torch.equal(to_torch(part), to_torch(norm(to_mindspore(wide[:, :64].contiguous()), weight, 1e-6)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1), (6, 3), (14, 2)])
@pytest.mark.parametrize("size", [32, 64, 80, 128])
def test_vllms_attention_takes_heads_that_lie_apart(size: int, heads: int, kv_heads: int, dtype: str) -> None:
    """[T, H, D] as views of [H, T, D], as MindSpore One's models have it: the same bits as of a dense tensor."""
    from vllm import _custom_ops as ops
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    block, kind = 32, getattr(torch, dtype)
    isa = _get_attn_isa(kind, block, size)
    names = {item.name for item in torch.ops._C.cpu_attention_with_kv_cache.default._schema.arguments}
    no_window = (-1, -1) if "sliding_window_left" in names else -1  # a pair in vLLM 0.23
    # (queries, keys) of each request: decode; a whole prompt; both, and a chunk.
    for requests in ([(1, 70), (1, 33), (1, 5)], [(40, 40)], [(97, 97), (1, 60), (7, 50)]):
        tokens = sum(queries for queries, _ in requests)
        views = [
            torch.randn(count, tokens, size).to(kind).transpose(0, 1) for count in (heads, kv_heads, kv_heads)
        ]
        before = torch.randn(32, kv_heads, 2 * block, size).to(kind)
        starts = [sum(queries for queries, _ in requests[:index]) for index in range(len(requests) + 1)]
        start, lengths = torch.tensor(starts).int(), torch.tensor([keys for _, keys in requests]).int()
        table = torch.arange(len(requests) * 4).int().view(-1, 4)
        slots = torch.tensor(
            [
                int(table[index, place // block]) * block + place % block
                for index, (queries, keys) in enumerate(requests)
                for place in range(keys - queries, keys)
            ]
        )
        found = []
        for query, key, value in (views, [view.contiguous() for view in views]):
            cache, attended = before.clone(), torch.zeros(tokens, heads, size, dtype=kind)
            keys, values = cache.chunk(2, dim=2)
            ops.cpu_attn_reshape_and_cache(key, value, keys, values, slots, isa)
            plan = ops.cpu_attn_get_scheduler_metadata(
                num_reqs=len(requests),
                num_heads=heads,
                num_kv_heads=kv_heads,
                head_dim=size,
                seq_lens=lengths,
                dtype=kind,
                query_start_loc=start,
                causal=True,
                sliding_window_size=-1,
                isa=isa,
                enable_kv_split=True,
            )
            ops.cpu_attention_with_kv_cache(
                query=query,
                key_cache=keys,
                value_cache=values,
                output=attended,
                query_start_loc=start,
                seq_lens=lengths,
                scale=size**-0.5,
                causal=True,
                alibi_slopes=None,
                sliding_window=no_window,
                block_table=table,
                softcap=0.0,
                scheduler_metadata=plan,
                s_aux=None,
            )
            found.append((attended, cache))
        assert torch.equal(found[0][0], found[1][0])
        assert torch.equal(found[0][1], found[1][1])


def test_new_shapes_leave_little_behind() -> None:
    """A server meets ever new numbers of tokens: MindSpore has to keep nothing for each of them."""
    found = subprocess.run([sys.executable, "-c", _NEW_SHAPES], capture_output=True, text=True, check=True)
    assert float(found.stdout.split()[-1]) < 25.0  # MiB; with what was kept for each shape, 139


_NEW_SHAPES = """
import ctypes
import torch
from mszoo.kernels import runtime
runtime.prepare("cpu")
from mszoo.kernels import mindspore_set as kernels
from mszoo.kernels.exchange import to_mindspore

weight, table, norm = torch.randn(256, 512), torch.randn(900, 64), torch.ones(512)
weight, table, norm = map(to_mindspore, (weight, table, norm))

def resident():
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps isn't of shapes
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return int(next(line for line in lines if line.startswith("Rss")).split()[1]) / 1024

def step(tokens):
    kernels.embedding(to_mindspore(torch.arange(tokens)), table)
    kernels.linear(kernels.rms_norm(to_mindspore(torch.randn(tokens, 512)), norm, 1e-6), weight)

step(800)
for tokens in range(1, 800, 2):
    step(tokens)
before = resident()
for tokens in range(2, 800, 2):
    step(tokens)
print(resident() - before)
"""
