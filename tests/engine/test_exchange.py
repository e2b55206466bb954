"""The exchange between torch and MindSpore: no copy, right shapes and strides, lifetimes, refusals."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap

import torch

import pytest

from mszoo.kernels import runtime

runtime.prepare("cpu")
from mszoo.kernels.exchange import (  # noqa: E402
    ExchangeError,
    ParameterView,
    checked,
    to_mindspore,
    to_torch,
)

import mindspore as ms  # noqa: E402

DTYPES = [
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
]


def sample(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(24).reshape(4, 6).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_to_mindspore_shares_memory(dtype: torch.dtype) -> None:
    tensor = sample(dtype)
    view = to_mindspore(tensor)
    assert view.shape == (4, 6)
    assert view.data_ptr() == tensor.data_ptr()
    assert to_torch(view) is tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
@pytest.mark.parametrize("rows", [1, 300])
def test_a_view_of_any_size_sees_what_torch_writes(dtype: torch.dtype, rows: int) -> None:
    """Small and large tensors of bfloat16 take different ways."""
    tensor = torch.zeros(rows, 256).to(dtype)
    view = to_mindspore(tensor)
    assert (view.shape, view.data_ptr()) == ((rows, 256), tensor.data_ptr())
    assert float(view.astype(ms.float32).sum()) == 0
    tensor.fill_(1)
    assert float(view.astype(ms.float32).sum()) == rows * 256


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_view_keeps_torchs_memory(dtype: torch.dtype) -> None:
    view = to_mindspore(torch.full((300, 256), 3.0, dtype=dtype))
    gc.collect()
    others = [torch.zeros(300, 256, dtype=dtype) for _ in range(8)]
    assert float(view.astype(ms.float32).sum()) == 3.0 * 300 * 256, len(others)


@pytest.mark.parametrize("dtype", DTYPES)
def test_mindspore_to_torch_shares_memory(dtype: torch.dtype) -> None:
    owned = to_mindspore(sample(dtype)).copy()  # memory of MindSpore's own
    view = to_torch(owned)
    assert torch.equal(view, sample(dtype))
    assert view.data_ptr() == owned.data_ptr()
    assert to_mindspore(view) is owned


@pytest.mark.parametrize(
    "cut",
    [
        lambda x: x[:, 2:4],
        lambda x: x[1:3],
        lambda x: x[::2, ::3],
        lambda x: x.T,
        lambda x: x[2],
        lambda x: x[1, 1],
        lambda x: x[:0],
    ],
)
def test_strided_and_offset_tensors(cut) -> None:
    tensor = cut(sample(torch.float32))
    view = to_mindspore(tensor)
    assert tuple(view.shape) == tuple(tensor.shape)
    if tensor.numel():
        assert torch.equal(to_torch(view * 1.0), tensor)
    assert to_torch(view).stride() == tensor.stride()


def test_strided_mindspore_tensor_to_torch() -> None:
    owned = to_mindspore(sample(torch.float32)) * 1.0
    assert torch.equal(to_torch(owned[:, 2:4]), sample(torch.float32)[:, 2:4])
    assert torch.equal(to_torch(owned[1:3]), sample(torch.float32)[1:3])


def test_mindspore_sees_what_torch_writes_later() -> None:
    tensor = torch.zeros(4)
    view = to_mindspore(tensor)
    for value in (1.0, 2.0):
        tensor.fill_(value)
        assert to_torch(view + 1.0).tolist() == [value + 1.0] * 4


def test_a_view_keeps_its_owner_alive() -> None:
    torch_view = to_torch(to_mindspore(sample(torch.float32)) + 1.0)
    mindspore_view = to_mindspore(sample(torch.float32) + 2.0)
    gc.collect()
    for _ in range(20):  # would reuse freed memory
        torch.full((4, 6), -1.0), to_mindspore(sample(torch.float32)) * 0.0
    assert torch.equal(torch_view, sample(torch.float32) + 1.0)
    assert torch.equal(to_torch(mindspore_view * 1.0), sample(torch.float32) + 2.0)


def test_exchange_leaves_no_garbage_behind() -> None:
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(200):
            to_torch(to_mindspore(torch.ones(3)) + 1.0)
        assert len(gc.get_objects()) - before < 100  # no cycles: reference counts free everything
    finally:
        gc.enable()


@pytest.mark.parametrize("step", [1, 2])
def test_bool(step: int) -> None:
    """A part of a tensor is copied."""
    tensor = torch.tensor([True, False, True] if step == 1 else [True, True, False, True, True])[::step]
    view = to_mindspore(tensor)
    assert view.dtype == ms.bool_
    assert to_torch(ms.ops.logical_not(view)).tolist() == [False, True, False]


def test_what_cannot_be_exchanged_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"torch tensor of torch\.float8_e4m3fn has no view in MindSpore: cast it"
    ):
        to_mindspore(torch.zeros(2).to(torch.float8_e4m3fn))
    with pytest.raises(TypeError, match="MindSpore tensor of Complex64 has no view in torch: cast it first"):
        to_torch(ms.Tensor([1j], ms.complex64))


def test_parameter_view_follows_the_parameter() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3), requires_grad=False)
    view = ParameterView()
    first = view.of(parameter)
    assert view.of(parameter) is first
    parameter.data.fill_(2.0)
    assert to_torch(view.of(parameter) * 1.0).tolist() == [2.0] * 3
    parameter.data = torch.full((3,), 5.0)
    assert view.of(parameter) is not first
    assert to_torch(view.of(parameter) * 1.0).tolist() == [5.0] * 3


def test_prepare_says_nothing_and_leaves_the_cores_alone() -> None:
    """The numpy 2 guard is silent, and MindSpore's threads may use every core though the caller is pinned."""
    code = """
        import os
        os.sched_setaffinity(0, {0})
        from mszoo.kernels import runtime
        runtime.prepare("cpu")
        runtime.prepare("cpu")
        assert os.sched_getaffinity(0) == {0}
        masks = [os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")]
        print(max(map(len, masks)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert int(done.stdout) == len(os.sched_getaffinity(0))


def test_checked_mode_finds_memory_that_moved() -> None:
    tensor = torch.ones(4, dtype=torch.bfloat16)
    view = to_mindspore(tensor)
    with checked():
        assert to_torch(view) is tensor
        tensor.resize_(1 << 20)  # frees the memory that the view reads
        with pytest.raises(ExchangeError, match=r"exchange: a tensor of shape .* no longer share memory"):
            to_torch(view)
    to_torch(view)  # unchecked, nobody notices
    shared = torch.ones(4)
    to_mindspore(shared)
    with pytest.raises(RuntimeError, match="not resizable"):  # torch itself knows that numpy reads it
        shared.resize_(1 << 20)


def test_checked_mode_finds_asynchronous_mindspore() -> None:
    """In a process of its own: MindSpore can't be made asynchronous again."""
    code = """
        import torch
        from mszoo.kernels import exchange, runtime
        with exchange.checked():
            try:
                exchange.to_mindspore(torch.ones(2))
            except exchange.ExchangeError as error:
                print(error)
            runtime.prepare("cpu")
            print(exchange.to_torch(exchange.to_mindspore(torch.ones(2)) + 1).tolist())
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.splitlines() == [
        "exchange: MindSpore computes asynchronously, so a view may be read before its tensor is computed. "
        "Call mszoo.kernels.runtime.prepare before the first exchange",
        "[2.0, 2.0]",
    ]


def test_nothing_documented_of_mindspores_streams_leads_to_torchs() -> None:
    """The day something does, events may take the place of waiting on an NPU: kernels/README.md."""
    kinds = (ms.runtime.Stream, ms.runtime.Event)
    documented = {name for kind in kinds for name in vars(kind) if not name.startswith("_")}
    order = {"record", "record_event", "wait", "wait_event", "wait_stream", "synchronize", "query"}
    assert documented == order | {"stream_id", "elapsed_time"}
    assert callable(ms.runtime.Stream.stream_ptr)
