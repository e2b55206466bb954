"""Who runs each op: decided once, when a model is built, by device, dtype and ``MSZOO_KERNELS``."""

from __future__ import annotations

import contextlib
import importlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from mszoo.kernels.spec import SPECS
from mszoo.registry.errors import RefusalError

#: Ops whose ``cpu`` kernel belongs to vLLM's own linear method, embedding or attention backend.
VLLM_OWNED = frozenset({"embedding", "linear", "paged_attention"})


@dataclass(frozen=True)
class Kernels:
    """The kernel set that runs each op of one model.

    Attributes:
        device: "cpu" or "npu".
        dtype: the model's dtype, such as "float32".
        sets: kernel set by op name.
        reason: why these sets, for people.
    """

    device: str
    dtype: str
    sets: Mapping[str, str]
    reason: str

    @property
    def name(self) -> str:
        """The kernel set that runs most ops."""
        return Counter(self.sets.values()).most_common(1)[0][0]

    def set_of(self, op: str) -> str:
        """Return the kernel set that runs ``op``."""
        return self.sets[op]

    def function(self, op: str) -> Callable[..., Any]:
        """Return the implementation of ``op``.

        Raises:
            LookupError: vLLM's own module runs this op (:data:`VLLM_OWNED`); call that module instead.
        """
        kernel_set = self.sets[op]
        if kernel_set == "cpu" and op in VLLM_OWNED:
            raise LookupError(f"the cpu kernel of {op} is called through vLLM's own module")
        return getattr(importlib.import_module(f"mszoo.kernels.{kernel_set}_set"), op)  # type: ignore[no-any-return]


def choose(requested: str, device: str, dtype: str) -> Kernels:
    """Choose a kernel set for every op.

    Args:
        requested: ``MSZOO_KERNELS``: "auto", "mindspore", "cpu" or "ascend".
        device: "cpu" or "npu".
        dtype: "float32", "bfloat16" or "float16".

    Raises:
        RefusalError: no set serves this device and dtype, or the requested one doesn't.
    """
    if requested == "ascend":
        raise RefusalError(
            "MSZOO_KERNELS=ascend",
            "the ascend kernel set is not part of this version",
            "Unset MSZOO_KERNELS, or set it to mindspore",
        )
    if requested == "cpu" and device != "cpu":
        raise RefusalError(
            "MSZOO_KERNELS=cpu", f"its kernels run on CPU and this is {device}", "Unset MSZOO_KERNELS"
        )
    if requested == "mindspore" or device != "cpu":
        if device == "cpu" and dtype != "float32":
            raise RefusalError(
                "MSZOO_KERNELS=mindspore",
                f"MindSpore's CPU backend multiplies matrices in float32 only, and the model's dtype is {dtype}",
                "Serve with --dtype float32, or unset MSZOO_KERNELS",
            )
        reason = "MSZOO_KERNELS=mindspore" if requested == "mindspore" else f"the set that runs on {device}"
        return Kernels(device, dtype, dict.fromkeys(SPECS, "mindspore"), reason)
    reason = "MSZOO_KERNELS=cpu" if requested == "cpu" else "the fastest set on CPU"
    return Kernels(device, dtype, dict.fromkeys(SPECS, "cpu"), reason)


_current: ContextVar[Kernels] = ContextVar("mszoo_kernels")


@contextlib.contextmanager
def building_with(kernels: Kernels) -> Iterator[None]:
    """Make ``kernels`` the choice of the layers that are built inside."""
    token = _current.set(kernels)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Kernels:
    """Return the choice for the model that is being built.

    Raises:
        LookupError: no model is being built.
    """
    return _current.get()
