"""Tells a device that has no memory left from a plugin that fails."""

from __future__ import annotations

from mszoo.registry.errors import RefusalError

#: What MindSpore says in a RuntimeError.
_MINDSPORES = "memory isn't enough and alloc failed"
_HINT = (
    "End what else uses the device (npu-smi info), take another one (ASCEND_RT_VISIBLE_DEVICES), or split the "
    "model with --tensor-parallel-size"
)


def shortage(who: str, error: BaseException) -> RefusalError | None:
    """Return what to say where an error comes from a device's memory, its causes included, or None.

    Args:
        who: needed the memory.
        error: what was raised.
    """
    import torch

    found: BaseException | None = error
    while found is not None:
        # By the type itself: a class of a plugin's may do anything when it is asked for its text.
        if type(found) in (torch.OutOfMemoryError, RuntimeError):
            said = " ".join(str(found).split())
            if type(found) is not RuntimeError or _MINDSPORES in said:
                return RefusalError(who, f"the device has no memory left for it ({said})", _HINT)
        found = found.__cause__
    return None
