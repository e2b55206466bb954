"""torch.npu: devices, streams, memory and graphs of the stand-in."""

import contextlib
import os

import torch

from .. import _device
from . import memory
from .graphs import (
    NPUGraph,
    graph,
    graph_pool_handle,
    graph_task_group_begin,
    graph_task_group_end,
    graph_task_update_begin,
    graph_task_update_end,
    is_current_stream_capturing,
)
from .memory import (
    empty_cache,
    max_memory_allocated,
    mem_get_info,
    memory_allocated,
    memory_reserved,
    memory_stats,
    reset_peak_memory_stats,
)
from .streams import (
    Event,
    ExternalEvent,
    Stream,
    current_stream,
    default_stream,
    set_stream,
    stream,
    synchronize,
)

NAME = "Ascend910B1"


def _index(device) -> int:
    if device is None:
        return _device.current_device()
    if isinstance(device, int):
        return device
    index = torch.device(device).index
    return _device.current_device() if index is None else index


def device_count() -> int:
    """How many NPUs there are; STAND_IN_NPUS says so."""
    visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    return _device.device_count() if visible is None else len([item for item in visible.split(",") if item])


def set_device(device) -> None:
    _device.set_device(_index(device))


def current_device() -> int:
    return _device.current_device()


@contextlib.contextmanager
def device(which):
    before = current_device()
    set_device(which)
    try:
        yield
    finally:
        set_device(before)


def is_available() -> bool:
    return device_count() > 0


def is_initialized() -> bool:
    return True


def init() -> None:
    pass


_lazy_init = init


def _is_in_bad_fork() -> bool:
    return False


def is_bf16_supported() -> bool:
    return True


def get_amp_supported_dtype() -> list[torch.dtype]:
    return [torch.float16, torch.bfloat16]


def default_generators():
    return [_device.default_generator(index) for index in range(device_count())]


def get_rng_state(device="npu") -> torch.Tensor:
    return _device.default_generator(_index(device)).get_state()


def set_rng_state(state: torch.Tensor, device="npu") -> None:
    _device.default_generator(_index(device)).set_state(state)


def manual_seed(seed: int) -> None:
    _device.default_generator(current_device()).manual_seed(int(seed))


def manual_seed_all(seed: int) -> None:
    for index in range(_device.device_count()):
        _device.default_generator(index).manual_seed(int(seed))


def get_device_name(device=None) -> str:
    return NAME


class _Properties:
    name = NAME
    cube_core_num = 24
    vector_core_num = 48
    multi_processor_count = 24
    uuid = None

    def __init__(self, index: int) -> None:
        self.total_memory = mem_get_info(index)[1]


def get_device_properties(device=None) -> _Properties:
    return _Properties(_index(device))


def get_device_capability(device=None):
    return None


def get_soc_version() -> int:
    return 220


def set_compile_mode(**_) -> None:
    pass


class _Config:
    allow_internal_format = True


config = _Config()


def __getattr__(name: str):
    if name.startswith("__"):
        raise AttributeError(name)
    raise AttributeError(f"torch_npu's stand-in has no torch.npu.{name}")
