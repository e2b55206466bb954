"""A stand-in for torch_npu: the device "npu" of torch on host memory. It is not torch_npu and has none of its code.

The ops have the meaning that they are documented with, as far as vllm-ascend calls them, computed by torch on CPU.
"""

import os
import sys

import torch

from . import _device

# vllm-ascend hands torch a graph that runs as it is, which the torch that it pairs with doesn't try to cache; a
# later one does, and refuses.
os.environ.setdefault("TORCHINDUCTOR_AUTOGRAD_CACHE", "0")

torch.utils.rename_privateuse1_backend("npu")

from . import npu

torch._register_device_module("npu", npu)
torch.npu = npu
sys.modules["torch.npu"] = npu
torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
torch.version.cann = "9.1.0"

from . import _C, _collectives, _expert_ops, _replaced, profiler
from ._ops import OPS
from ._version import __version__

globals().update(OPS)

#: What streams did without an order between them; see csrc/device.cpp.
stream_violations = _device.violations


def autoload() -> None:
    """Let torch import this package; everything happens as it is imported."""


class _Lacking:
    """An op that nobody needed yet: it can be named, and says so when it is called."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *_, **__):
        raise NotImplementedError(f"torch_npu's stand-in has no op {self._name}")

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Lacking(f"{self._name}.{name}")


def __getattr__(name: str):
    if name.startswith(("npu_", "_npu_", "atb", "empty_with_format")):
        return _Lacking(name)
    raise AttributeError(f"torch_npu's stand-in has no {name}")
