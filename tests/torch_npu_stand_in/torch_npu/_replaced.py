"""What of other packages can't run here.

Of vllm-ascend its compiled part, a Triton kernel, and fusions to ops that have no stand-in; of MindSpore its
device.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys

import torch

_COMPILED = "vllm_ascend.vllm_ascend_C"


def _give_slot_mapping(module) -> None:
    from ._slot_mapping import SlotMapping

    module._compute_slot_mapping_kernel = SlotMapping()


def _forget_fusions(module) -> None:
    module.BasePattern.register = lambda self, pm_pass: None


def _take_float32(module) -> None:
    # The ops that it calls are torch's here.
    backend = module.AscendAttentionBackend
    backend.supported_dtypes = [torch.float32, *backend.supported_dtypes]


def _give_ascend(module) -> None:
    from ._mindspore import stand_in

    stand_in(module)


_AFTERWARDS = {
    "mindspore": _give_ascend,
    "vllm_ascend.attention.attention_v1": _take_float32,
    "vllm_ascend.worker.block_table": _give_slot_mapping,
    "vllm_ascend.compilation.passes.base_pattern": _forget_fusions,
}


class _Compiled(importlib.abc.Loader):
    """The compiled part: an allocator; its ops are in torch.ops._C_ascend, as far as they have stand-ins."""

    def create_module(self, spec):
        return None

    def exec_module(self, module) -> None:
        from . import _device
        from .npu import memory

        module.init_module = _device.plug_in
        module.python_create_and_map = memory.create_and_map
        module.python_unmap_and_release = memory.unmap_and_release


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == _COMPILED:
            return importlib.machinery.ModuleSpec(name, _Compiled())
        if name not in _AFTERWARDS:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        execute = spec.loader.exec_module

        def and_replace(module) -> None:
            execute(module)
            _AFTERWARDS[name](module)

        spec.loader.exec_module = and_replace
        return spec


sys.meta_path.insert(0, _Finder())
