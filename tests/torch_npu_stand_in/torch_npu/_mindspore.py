"""MindSpore's device "Ascend", by its CPU on the same host memory.

MindSpore says that its tensors are on Ascend, and hands them over by DLPack as memory of an NPU. It computes
at once, and reading a tensor waits for the device. Its own memory isn't counted. Ops that CPU lacks are put in the
places of Ascend's, from MindSpore's stock ops and by what its documentation says of them.
"""

import functools

import torch.utils.dlpack as torch_dlpack

from . import _device
from ._mindspore_ops import FUNCTIONAL, OPS, WIDENED


def stand_in(ms) -> None:
    """Replace what a process of MindSpore has of an NPU, once it asks for "Ascend"."""
    real = ms.set_device

    @functools.wraps(real)
    def set_device(device_target, device_id=None) -> None:
        if device_target != "Ascend":
            real(device_target, device_id)
            return
        real("CPU")
        ms.runtime.launch_blocking()
        _become_npu(ms)

    ms.set_device = set_device


@functools.cache
def _become_npu(ms) -> None:
    dlpack = ms.utils.dlpack
    to_dlpack, from_dlpack = dlpack.to_dlpack, dlpack.from_dlpack

    def to_npu(tensor):
        return _device.retag(to_dlpack(tensor), True)

    def from_npu(capsule):
        return from_dlpack(_device.retag(capsule, False))

    dlpack.to_dlpack, dlpack.from_dlpack = to_npu, from_npu
    given = torch_dlpack.to_dlpack

    def give(tensor):
        _device.read_by_host("MindSpore", tensor)
        return given(tensor)

    torch_dlpack.to_dlpack = give
    for name, op in OPS.items():
        setattr(ms.ops, name, op)
    for name, widened in WIDENED.items():
        setattr(ms.ops, name, widened(getattr(ms.ops, name)))
    for name, op in FUNCTIONAL.items():
        setattr(ms.mint.nn.functional, name, op)
    ms.Tensor.device = property(lambda self: f"Ascend:{_device.current_device()}")
    asnumpy = ms.Tensor.asnumpy

    def read(self):
        _device.refuse_sync("reading a MindSpore tensor")
        return asnumpy(self)

    ms.Tensor.asnumpy = read
    ms.runtime.synchronize = lambda: _device.refuse_sync("waiting for MindSpore")
