"""Names of torch_npu._C that vllm-ascend uses."""

from .. import _device
from ..npu.graphs import TaskGroup as _NPUTaskGroupHandle


def _weak_ref_tensor(tensor):
    """Return a tensor on the same memory, which it doesn't keep."""
    return _device.weak(tensor) if tensor.device.type == "npu" else tensor


from . import _distributed_c10d
