"""hccl, over gloo: the same collectives, on the same memory, in order with what else is on the stream."""

from collections import deque

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import _create_work_from_future

from . import _device
from .npu import graphs


def _on_cpu(value):
    if isinstance(value, torch.Tensor):
        return _device.alias_on_cpu(value) if value.device.type == "npu" else value
    return [_on_cpu(item) for item in value]


def _flat(value):
    return [value] if isinstance(value, torch.Tensor) else [item for part in value for item in _flat(part)]


def _done():
    """Return work that is over, as often as it is waited for; gloo's own waits for ever at the second time."""
    future = torch.futures.Future()
    future.set_result(None)
    return _create_work_from_future(future)


class OverGloo(dist.ProcessGroup):
    """A process group of NPU tensors."""

    def __init__(self, store, rank, size, timeout) -> None:
        super().__init__(rank, size)
        self._gloo = dist.ProcessGroupGloo(store, rank, size, timeout)
        self._sent: deque = deque(maxlen=64)

    def getBackendName(self) -> str:
        return "hccl"

    # torch asks these of a group that has no backend of its own.
    def setGroupName(self, name: str) -> None:
        self._name = name

    def getGroupName(self) -> str:
        return self._name

    def _run(self, name: str, arguments: tuple, writes, *rest):
        """Do it on the current stream, wait for it, and record it where a graph is captured."""
        tensors = [item for value in arguments for item in _flat(value)]
        device = next((item.device.index for item in tensors if item.device.type == "npu"), 0)

        def compute():
            _device.launch(f"hccl::{name}", device, tensors, _flat(writes))
            getattr(self._gloo, name)(*map(_on_cpu, arguments), *rest).wait()

        graphs.record(name, lambda: (compute(), True)[1], [])
        compute()
        return _done()

    def allreduce(self, tensors, opts=None):
        return self._run("allreduce", (tensors,), tensors, opts or dist.AllreduceOptions())

    def broadcast(self, tensors, opts=None):
        return self._run("broadcast", (tensors,), tensors, opts or dist.BroadcastOptions())

    def allgather(self, outputs, inputs, opts=None):
        return self._run("allgather", (outputs, inputs), outputs, opts or dist.AllgatherOptions())

    def _allgather_base(self, output, input, opts=None):
        return self._run("_allgather_base", (output, input), output, opts or dist.AllgatherOptions())

    def reduce_scatter(self, outputs, inputs, opts=None):
        return self._run("reduce_scatter", (outputs, inputs), outputs, opts or dist.ReduceScatterOptions())

    def _reduce_scatter_base(self, output, input, opts=None):
        return self._run("_reduce_scatter_base", (output, input), output, opts or dist.ReduceScatterOptions())

    # Later torch's names.
    all_gather_single, reduce_scatter_single = _allgather_base, _reduce_scatter_base

    def gather(self, outputs, inputs, opts=None):
        return self._run("gather", (outputs, inputs), outputs, opts or dist.GatherOptions())

    def scatter(self, outputs, inputs, opts=None):
        return self._run("scatter", (outputs, inputs), outputs, opts or dist.ScatterOptions())

    def alltoall_base(self, output, input, output_sizes, input_sizes, opts=None):
        rest = output_sizes, input_sizes, opts or dist.AllToAllOptions()
        return self._run("alltoall_base", (output, input), output, *rest)

    all_to_all_single = alltoall_base

    def send(self, tensors, rank, tag=0):
        """Send a copy and don't wait: two stages that send to each other would wait for ever."""
        device = next((item.device.index for item in tensors if item.device.type == "npu"), 0)

        def send():
            _device.launch("hccl::send", device, tensors, [])
            # gloo drops what nobody holds.
            self._sent.append(self._gloo.send([tensor.clone() for tensor in _on_cpu(tensors)], rank, tag))

        graphs.record("send", lambda: (send(), True)[1], [])
        send()
        return _done()

    def recv(self, tensors, rank, tag=0):
        return self._run("recv", (tensors,), tensors, rank, tag)

    def barrier(self, opts=None):
        _device.refuse_sync("a barrier")
        return self._gloo.barrier(opts or dist.BarrierOptions())


if dist.is_available():
    dist.Backend.register_backend("hccl", OverGloo, devices=["npu"])
    dist.is_hccl_available = lambda: True
