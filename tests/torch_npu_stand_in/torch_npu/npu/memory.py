"""Memory of a device, as torch counts it."""

import contextlib
import os

import torch

from .. import _device

_TOTAL = int(os.environ.get("STAND_IN_MEMORY", str(4 << 30)))
#: Bytes that another process is to have.
_TAKEN = int(os.environ.get("STAND_IN_TAKEN", "0"))
for _number in range(_device.device_count()):
    _device.set_limit(_number, _TOTAL - _TAKEN)


def _index(device) -> int:
    if device is None:
        return _device.current_device()
    if isinstance(device, int):
        return device
    index = torch.device(device).index
    return _device.current_device() if index is None else index


def mem_get_info(device=None) -> tuple[int, int]:
    """Return free and all bytes of a device."""
    return _TOTAL - _TAKEN - _device.memory(_index(device))[0], _TOTAL


def memory_allocated(device=None) -> int:
    return _device.memory(_index(device))[0]


def max_memory_allocated(device=None) -> int:
    return _device.memory(_index(device))[1]


memory_reserved = memory_allocated
max_memory_reserved = max_memory_allocated


def memory_stats(device=None) -> dict[str, int]:
    current, peak = _device.memory(_index(device))
    return {
        "allocated_bytes.all.current": current,
        "allocated_bytes.all.peak": peak,
        "reserved_bytes.all.current": current,
        "reserved_bytes.all.peak": peak,
        "num_alloc_retries": 0,
        "num_ooms": 0,
    }


def reset_peak_memory_stats(device=None) -> None:
    _device.reset_peak(_index(device))


def empty_cache() -> None:
    """Give back what is cached: nothing is."""


class NPUPluggableAllocator:
    """An allocator whose memory can be taken away and given back: that of vllm-ascend's sleep mode alone."""

    def __init__(self, library, malloc: str, free: str) -> None:
        self._allocator = self


class MemPool:
    """Memory of an allocator."""

    def __init__(self, allocator: NPUPluggableAllocator) -> None:
        assert isinstance(allocator, NPUPluggableAllocator)


@contextlib.contextmanager
def use_mem_pool(pool: MemPool):
    """Let what is allocated inside be the pool's."""
    _device.open_pool(True)
    try:
        yield
    finally:
        _device.open_pool(False)


def create_and_map(device: int, size: int, address: int, handle: int) -> None:
    """Give back memory at an address."""
    _device.map(address)


def unmap_and_release(device: int, size: int, address: int, handle: int) -> None:
    """Take the memory at an address away, with what lies there."""
    _device.unmap(address)
