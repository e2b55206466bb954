"""The stand-in itself: it has to refuse what an NPU refuses, or tests over it show nothing."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.utils.dlpack

import pytest
import torch_npu
from torch_npu import _device


@pytest.fixture(autouse=True)
def no_violations() -> Iterator[None]:
    _device.clear_violations()
    yield
    _device.clear_violations()


def test_a_tensor_is_on_the_npu_and_computes_there() -> None:
    x = torch.arange(6.0, device="npu").view(2, 3)
    y = (x @ x.t()).relu() + torch.tensor(1.0)
    assert y.device == torch.device("npu", 0)
    assert y.is_npu
    assert torch.equal(y.cpu(), torch.tensor([[6.0, 15.0], [15.0, 51.0]]))
    x[1].zero_()
    assert x.cpu()[1].tolist() == [0.0, 0.0, 0.0]
    assert torch.nn.Linear(3, 2).npu()(x).device.type == "npu"


def test_tensors_of_two_devices_are_not_mixed() -> None:
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        torch.ones(3, device="npu") + torch.ones(3)
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        torch.ones(3, device="npu:0") @ torch.ones(3, device="npu:1")
    with pytest.raises((RuntimeError, TypeError)):
        torch.ones(3, device="npu").numpy()


def test_memory_is_counted_and_ends() -> None:
    before = torch.npu.memory_allocated()
    torch.npu.reset_peak_memory_stats()
    x = torch.empty(1 << 20, device="npu")
    y = x + 1
    del y
    assert torch.npu.memory_allocated() - before == 4 << 20
    assert torch.npu.max_memory_allocated() - before == 8 << 20
    free, total = torch.npu.mem_get_info()
    with pytest.raises(torch.OutOfMemoryError, match="NPU out of memory"):
        torch.empty(total, device="npu")
    del x
    assert torch.npu.mem_get_info()[0] == free + (4 << 20)


def test_memory_of_a_pool_is_taken_away_and_given_back() -> None:
    """As vllm-ascend's sleep mode does it, by vllm-ascend's own allocator."""
    from vllm_ascend.device_allocator.camem import CaMemAllocator

    allocator, before = CaMemAllocator.get_instance(), torch.npu.memory_allocated()
    with allocator.use_memory_pool(tag="weights"):
        weight = torch.full((1024,), 3.0, device="npu")
    with allocator.use_memory_pool(tag="kv_cache"):
        cache = torch.full((1024,), 5.0, device="npu")
    outside = torch.full((1024,), 7.0, device="npu")
    address = weight.data_ptr()
    allocator.sleep(offload_tags=("weights",))
    assert torch.npu.memory_allocated() - before == 4096
    assert torch.isnan(weight).all(), "what is not mapped has no values"
    allocator.wake_up()
    assert torch.npu.memory_allocated() - before == 3 * 4096
    assert (weight.sum().item(), outside.sum().item()) == (3 * 1024, 7 * 1024)
    assert weight.data_ptr() == address
    assert torch.isnan(cache).all(), "what was not offloaded is lost"
    del weight, cache, outside
    assert (allocator.get_current_usage(), torch.npu.memory_allocated()) == (0, before)


def test_memory_goes_to_mindspore_and_back_as_an_npus() -> None:
    from mszoo.kernels import runtime
    from mszoo.kernels.exchange import to_mindspore, to_torch

    runtime.prepare("npu")
    x = torch.ones(3, device="npu")
    seen = to_mindspore(x)
    assert seen.device == "Ascend:0"
    back = to_torch(seen * 2)
    assert back.device == torch.device("npu", 0)
    assert back.tolist() == [2.0, 2.0, 2.0]
    x.fill_(5.0)
    assert seen.asnumpy().tolist() == [5.0, 5.0, 5.0]


def test_a_replay_computes_what_was_recorded_on_what_lies_there_now() -> None:
    x = torch.ones(3, device="npu")
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        y = x * 2
        for_the_first = float("nan")  # a Python branch is taken once, when the graph is recorded
        z = y + 1
    assert torch.isnan(z).all(), for_the_first  # an NPU computes nothing while it records
    x.fill_(10.0)
    graph.replay()
    assert z.tolist() == [21.0, 21.0, 21.0]
    assert graph.steps == ["aten::mul", "aten::add"]


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.cpu(),
        lambda x: x[x > 0],
        lambda x: torch.tensor([1.0], device="npu"),
        lambda x: torch.npu.synchronize(),
        lambda x: torch.npu.current_stream().synchronize(),
        lambda x: bool((x > 0).any()),
    ],
)
def test_a_capture_refuses_who_waits_for_the_device(wait) -> None:
    x = torch.ones(3, device="npu")
    refused = pytest.raises(RuntimeError, match="waits for the device while a graph is captured")
    with refused, torch.npu.graph(torch.npu.NPUGraph()):
        wait(x)
    assert x.sum().item() == 3.0  # afterwards all is as before


def test_a_capture_takes_other_streams_only_if_they_are_joined() -> None:
    x, other = torch.ones(3, device="npu"), torch.npu.Stream()
    refused = pytest.raises(RuntimeError, match="a stream that isn't joined")
    with refused, torch.npu.graph(torch.npu.NPUGraph()), torch.npu.stream(other):
        x.add_(1)
    with torch.npu.graph(torch.npu.NPUGraph()):
        other.wait_stream(torch.npu.current_stream())
        with torch.npu.stream(other):
            x.add_(1)
        torch.npu.current_stream().wait_stream(other)


def test_a_task_of_a_graph_gets_new_arguments_before_the_replay_goes_on() -> None:
    stream = torch.npu.current_stream()
    query, keys = torch.randn(1, 1, 4, device="npu"), torch.randn(1, 8, 4, device="npu")
    table, out, lse = (torch.zeros(*size, device="npu") for size in ((1, 1), (1, 1, 4), (1,)))
    mask, event, graph = torch.ones(2048, 2048, device="npu"), torch.npu.ExternalEvent(), torch.npu.NPUGraph()

    with torch.npu.graph(graph):
        stream = torch.npu.current_stream()
        event.wait(stream)
        event.reset(stream)
        torch.npu.graph_task_group_begin(stream)
        table_before = table.int()
        torch_npu.npu_fused_infer_attention_score.out(
            query, keys, keys, atten_mask=mask, block_table=table_before, input_layout="TND", block_size=8,
            actual_seq_lengths=[1], actual_seq_lengths_kv=[1], num_heads=1, num_key_value_heads=1,
            sparse_mode=3, workspace=None, out=[out, lse],
        )  # fmt: skip
        handle = torch.npu.graph_task_group_end(stream)
        doubled = out * 2
    graph.replay()
    with pytest.raises(RuntimeError, match="waits for an event"):
        doubled.add_(1)
    ints = table_before
    update = torch.npu.Stream()
    with torch.npu.stream(update):
        torch.npu.graph_task_update_begin(update, handle)
        torch_npu.npu_fused_infer_attention_score.out(
            query, keys, keys, atten_mask=mask, block_table=ints, input_layout="TND", block_size=8,
            actual_seq_lengths=[1], actual_seq_lengths_kv=[5], num_heads=1, num_key_value_heads=1,
            sparse_mode=3, workspace=None, out=[out, lse],
        )  # fmt: skip
        torch.npu.graph_task_update_end(update)
        event.record(update)
    seen = keys.cpu()[0, :5]
    expected = (query.cpu()[0] @ seen.t()).softmax(-1) @ seen
    torch.testing.assert_close(doubled.cpu()[0], expected * 2)


def _routed(
    experts: int, chosen: torch.Tensor, x: torch.Tensor, **changes: object
) -> tuple[torch.Tensor, ...]:
    arguments: dict[str, object] = {"active_num": chosen.numel(), "expert_num": experts}
    arguments |= {"expert_tokens_num_type": 1, "expert_tokens_num_flag": True, "quant_mode": -1}
    arguments |= {"active_expert_range": [0, experts]}
    return torch.ops._C_ascend.npu_moe_init_routing_custom(x, chosen, **(arguments | changes))


def test_experts_give_each_token_the_weighed_sum_of_its_own() -> None:
    x, weight = torch.randn(5, 8, device="npu"), torch.randn(4, 8, 6, device="npu")
    logits = torch.randn(5, 4, device="npu")
    weights, chosen, _ = torch.ops._C_ascend.moe_gating_top_k(logits, 2, 1, 1, 1, 1, 0, False, 1.0, 1e-20)
    rows, places, counts, _ = _routed(4, chosen, x)
    (products,) = torch_npu.npu_grouped_matmul(
        x=[rows], weight=[weight], split_item=2, group_list_type=1, group_type=0, group_list=counts
    )
    found = torch_npu.npu_moe_token_unpermute(permuted_tokens=products, sorted_indices=places, probs=weights)
    scores = logits.cpu().softmax(-1)
    kept = torch.where(scores >= scores.topk(2)[0][:, -1:], scores, 0)
    kept /= kept.sum(-1, keepdim=True)
    torch.testing.assert_close(found.cpu(), torch.einsum("te,ti,eij->tj", kept, x.cpu(), weight.cpu()))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"active_num": 3}, "an active_num of rows times k"),
        ({"drop_pad_mode": 1}, "a drop_pad_mode of 0"),
        ({"expert_tokens_num_type": 0}, "counts of each expert's tokens"),
        ({"active_expert_range": [0, 2]}, "has no active_expert_range"),
        ({"quant_mode": 1}, "has no quant_mode"),
    ],
)
def test_routing_refuses_what_cann_refuses_or_nobody_stands_in_for(
    changes: dict[str, object], why: str
) -> None:
    chosen = torch.zeros(3, 2, dtype=torch.int32, device="npu")
    with pytest.raises((ValueError, NotImplementedError), match=why):
        _routed(4, chosen, torch.ones(3, 8, device="npu"), **changes)


def test_products_of_groups_take_all_rows_and_one_dtype() -> None:
    rows, weight = torch.ones(3, 8, device="npu"), torch.ones(2, 8, 4, device="npu")
    counts = torch.tensor([1, 1], device="npu")
    call = {"split_item": 2, "group_list_type": 1, "group_type": 0}
    with pytest.raises(ValueError, match="groups of all rows"):
        torch_npu.npu_grouped_matmul(x=[rows], weight=[weight], group_list=counts, **call)
    with pytest.raises(ValueError, match="rows and weights of one dtype"):
        torch_npu.npu_grouped_matmul(x=[rows], weight=[weight.half()], group_list=counts, **call)


def test_streams_without_an_order_are_told() -> None:
    x, other = torch.ones(3, device="npu"), torch.npu.Stream()
    torch.npu.synchronize()
    with torch.npu.stream(other):
        y = x * 2
    _ = y + 1
    (violation,) = torch_npu.stream_violations()
    assert "aten::add on stream 0 reads what stream" in violation
    _device.clear_violations()
    with torch.npu.stream(other):
        y = x * 2
    torch.npu.current_stream().wait_stream(other)
    _ = y + 1
    with torch.npu.stream(other):
        y = x * 2
    other.synchronize()
    _ = y + 1
    assert torch_npu.stream_violations() == []


def test_what_mindspore_reads_is_waited_for() -> None:
    """The exchange waits for torch's stream: for what torch wrote into a tensor that was exchanged before, too."""
    from mszoo.kernels import runtime
    from mszoo.kernels.exchange import to_mindspore, to_torch

    runtime.prepare("npu")
    x = torch.ones(3, device="npu")
    torch.utils.dlpack.to_dlpack(x * 2)
    (violation,) = torch_npu.stream_violations()
    assert violation.startswith("MindSpore on stream -1 reads what stream 0 writes, and nothing orders them")
    _device.clear_violations()
    ours = to_mindspore(x * 2) + 1
    exchanged = to_torch(ours).add_(1)
    assert to_mindspore(exchanged) is ours
    _device.read_by_host("MindSpore", exchanged)
    assert torch_npu.stream_violations() == []
