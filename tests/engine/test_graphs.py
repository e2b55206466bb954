"""The ``mindspore`` set's graph of a decoder: shapes that tiny checkpoints don't reach, and memory that moves."""

from __future__ import annotations

import subprocess
import sys

import torch

import pytest

from mszoo.kernels import runtime

from .conftest import RAW_LOGITS, assert_mindspore, running_engine, worst_of

runtime.prepare("cpu")
from mszoo.kernels import graphs, op_graphs  # noqa: E402
from mszoo.kernels import mindspore_set as kernels  # noqa: E402
from mszoo.kernels.exchange import move_to_mindspore, to_mindspore, to_torch  # noqa: E402

import mindspore as ms  # noqa: E402

HEADS, KV_HEADS, SIZE, BLOCK = 4, 2, 32, 4


def parameter(name: str, tensor: torch.Tensor) -> ms.Parameter:
    made = ms.Parameter(ms.Tensor([0.0], ms.float32), name=name, requires_grad=False)
    made.assign_value(to_mindspore(tensor))
    return made


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape) * 0.2


@pytest.mark.parametrize(("window", "softcap"), [(None, 0.0), (3, 0.0), (None, 2.0)])
@pytest.mark.parametrize("tokens", [1, 3])
def test_attention_beside_the_cache_is_attention_in_it(
    tokens: int, window: int | None, softcap: float
) -> None:
    """Two sequences, with 5 and 2 cached tokens, and ``tokens`` new ones each."""
    cached = [5, 2]
    blocks = [[3, 1, 6], [5, 2, 0]]  # the third holds new tokens of the first, or none
    cache = random(8 * KV_HEADS * 2, BLOCK, SIZE)
    query, key, value = (random(2 * tokens, heads, SIZE) for heads in (HEADS, KV_HEADS, KV_HEADS))
    scale = SIZE**-0.5
    names = ("input_norm", "qkv", "out", "post_norm", "gate_up", "down")
    weights = {name: parameter(name, random(1, 1)) for name in names}
    layer = graphs.LayerCell(
        weights,
        parameter("cache", cache),
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        eps=1e-6,
        scale=scale,
        softcap=softcap,
        activation="silu_and_mul",
    )
    table = ms.Tensor(blocks, ms.int32)
    rows = kernels.key_rows(table, KV_HEADS)
    start = ms.Tensor(cached, ms.int32)
    bias = graphs._bias(start, 3 * BLOCK, tokens, window)
    ours = layer.attend(*map(to_mindspore, (query * scale, key, value)), rows, rows + 1, bias)

    stored = cache.view(8, KV_HEADS, 2, BLOCK, SIZE).clone()
    for sequence, (old, own) in enumerate(zip(cached, blocks, strict=True)):
        for token in range(tokens):
            block, offset = own[(old + token) // BLOCK], (old + token) % BLOCK
            stored[block, :, 0, offset] = key[sequence * tokens + token]
            stored[block, :, 1, offset] = value[sequence * tokens + token]
    expected = kernels.paged_attention(
        to_mindspore(query),
        to_mindspore(stored.flatten(0, 2)),
        table,
        [0, tokens, 2 * tokens],
        [old + tokens for old in cached],
        scale,
        KV_HEADS,
        window,
        softcap,
    )
    torch.testing.assert_close(to_torch(ours), to_torch(expected))


def test_a_moved_tensor_is_the_same_in_memory_of_mindspores() -> None:
    tensor = torch.nn.Parameter(random(5, 7), requires_grad=False)
    values, before = tensor.clone(), tensor.data_ptr()
    move_to_mindspore(tensor)
    assert torch.equal(tensor, values)
    after = tensor.data_ptr()
    assert after != before
    assert to_mindspore(tensor).data_ptr() == after
    move_to_mindspore(tensor)
    assert tensor.data_ptr() == after
    tensor.fill_(2.0)
    assert to_mindspore(tensor).asnumpy().tolist() == [[2.0] * 7] * 5


def test_a_graph_follows_a_weight_that_moved(checkpoint, monkeypatch) -> None:
    """As a weight reload does: a compiled graph alone would read the memory that it was compiled with."""
    from vllm import SamplingParams

    def move(model: torch.nn.Module) -> bool:
        model.model.norm.weight.data = torch.zeros_like(model.model.norm.weight)
        return model.model.graph.runs

    monkeypatch.setenv("MSZOO_KERNELS", "mindspore")
    prompt = {"prompt_token_ids": [5, 17, 99, 201]}
    sampling = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, detokenize=False)
    with running_engine(checkpoint("llama", num_hidden_layers=1), enforce_eager=False) as llm:
        before = llm.generate([prompt], sampling, use_tqdm=False)[0].outputs[0].token_ids
        assert assert_mindspore(llm, "native.LlamaForCausalLM", "mindspore") > 0
        assert llm.apply_model(move) == [True]
        after = llm.generate([prompt], sampling, use_tqdm=False)[0].outputs[0].token_ids
    assert list(before) != [0] * 4
    assert list(after) == [0] * 4  # every logit is 0


@pytest.mark.parametrize("limit", [2, graphs.GRAPHS])
def test_graphs_compute_every_step_in_a_bounded_number_of_shapes(checkpoint, monkeypatch, limit: int) -> None:
    """Prompts of many lengths, in chunks, beside sequences that decode: the logits are Hugging Face's."""
    from transformers import AutoModelForCausalLM
    from vllm import SamplingParams

    def shapes(model: torch.nn.Module) -> tuple[bool, list[graphs.Shape]]:
        return model.model.graph.runs, sorted(model.model.graph._graph._shapes._compiled)

    monkeypatch.setenv("MSZOO_KERNELS", "mindspore")
    monkeypatch.setattr(graphs, "GRAPHS", limit)
    folder = checkpoint("llama", num_hidden_layers=1)
    lengths = [1, 2, 3, 5, 18, 33, 64, 65, 90, 131, 257, 300]
    prompts = [[(7 * at + length) % 256 for at in range(length)] for length in lengths]
    sampling = SamplingParams(
        temperature=0, max_tokens=9, ignore_eos=True, detokenize=False, logprobs=-1, prompt_logprobs=-1
    )
    options = {"enforce_eager": False, "max_model_len": 512, **RAW_LOGITS}
    with running_engine(folder, **options) as llm:
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
        ((runs, compiled),) = llm.apply_model(shapes)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    assert runs
    assert len(compiled) <= limit + 2 * len({1, 4})  # of both kinds, for each number of blocks
    assert worst_of(prompts, outputs, reference) < 1e-4


def test_a_shape_holds_what_fits_into_it() -> None:
    shapes = graphs.Shapes()
    assert shapes.fit(3, 3, 2) == (4, 4, 4)
    assert shapes.fit(1, 1, 1) == (1, 1, 1)
    assert shapes.fit(5, 1, 3) == (16, 1, 4)
    assert not graphs.Shape(64, 64, 16).holds(graphs.Shape(16, 1, 4))
    assert graphs.Shape(64, 64, 16).holds(graphs.Shape(1, 1, 4))
    assert not graphs.Shape(64, 64, 1).holds(graphs.Shape(1, 1, 4))
    every = [(tokens, tokens, blocks) for tokens in range(1, 65) for blocks in range(1, 300)]
    every += [(tokens, 1, blocks) for tokens in range(2, 257) for blocks in range(1, 300)]
    fits = {wanted: shapes.fit(*wanted) for wanted in every}
    assert len(shapes._compiled) <= graphs.GRAPHS + 2 * len({1, 4, 16, 64, 256, 1024})
    for (tokens, sequences, blocks), shape in fits.items():
        assert shape.tokens >= tokens
        assert shape.blocks >= blocks
        assert tokens == 1 or (shape.sequences == 1) == (sequences == 1)


@pytest.mark.parametrize("rows", [0, 1, 3, 64, 65, 300])
def test_a_product_and_a_look_up_as_graphs_of_their_own(rows: int) -> None:
    weight, bias, x = torch.randn(11, 8), torch.randn(11), torch.randn(rows, 8)
    table, ids = to_mindspore(weight), torch.randint(0, 11, (rows,))
    assert torch.equal(op_graphs.embedding(ids, table), weight[ids])
    torch.testing.assert_close(op_graphs.linear(x, table), x @ weight.T)
    torch.testing.assert_close(op_graphs.linear(x, table, to_mindspore(bias)), x @ weight.T + bias)


def test_graphs_of_single_ops_lose_no_memory() -> None:
    """A server calls them at every step: op by op, MindSpore loses 1 to 2 KiB each time."""
    found = subprocess.run([sys.executable, "-c", _MANY_CALLS], capture_output=True, text=True, check=True)
    in_graphs, op_by_op = map(float, found.stdout.split()[-2:])
    assert in_graphs < 1.0 < 3.0 < op_by_op  # MiB


_MANY_CALLS = """
import ctypes
import torch
from mszoo.kernels import runtime
runtime.prepare("cpu")
from mszoo.kernels import mindspore_set, op_graphs
from mszoo.kernels.exchange import to_mindspore

weight = to_mindspore(torch.randn(260, 64))
xs, ids = [torch.randn(n, 64) for n in (1, 3, 8)], [torch.arange(n) for n in (1, 3, 8)]

def resident():
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps isn't lost
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return int(next(line for line in lines if line.startswith("Rss")).split()[1]) / 1024

def graphs(x, ids):
    op_graphs.linear(x, weight)
    op_graphs.embedding(ids, weight)

def op_by_op(x, ids):
    mindspore_set.linear(to_mindspore(x), weight)
    mindspore_set.embedding(to_mindspore(ids), weight)

def grows(step):
    for n in range(600):
        step(xs[n % 3], ids[n % 3])
    before = resident()
    for n in range(3000):
        step(xs[n % 3], ids[n % 3])
    return resident() - before

print(grows(graphs), grows(op_by_op))
"""
