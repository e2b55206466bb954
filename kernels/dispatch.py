"""Who runs each op: decided once, when a model is built, by device, dtype, MSZOO_KERNELS and what suites give.

The built-in set of the device runs every op that no suite's implementation replaces. Suites' implementations come
in from outside, already ranked and only those that go before the built-in one (see
:mod:`mszoo.adapters.vllm.ops.kernels`). Under ``MSZOO_KERNELS=auto`` the first of them runs; under
``MSZOO_KERNELS=<set>`` the first that belongs to that set, which may be a suite's own: the device's built-in set
then runs the ops that it lacks.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mszoo.kernels.spec import SPECS
from mszoo.registry.devices import TABLE, device_of
from mszoo.registry.errors import RefusalError
from mszoo.registry.objects import load_object
from mszoo.registry.settings import KERNELS

_VLLM_LAYERS = "vllm.model_executor.layers"
#: Ops whose ``cpu`` kernel belongs to vLLM's own linear method, embedding or attention backend, and vLLM's module.
#: Attention is the backend's on every device.
VLLM_OWNED: Mapping[str, str] = MappingProxyType(
    {
        "embedding": f"{_VLLM_LAYERS}.vocab_parallel_embedding:VocabParallelEmbedding",
        "linear": f"{_VLLM_LAYERS}.linear:LinearBase",
        "paged_attention": f"{_VLLM_LAYERS}.attention:Attention",
    }
)


@dataclass(frozen=True)
class Implementation:
    """One implementation of one op.

    Attributes:
        kernel_set: the family that it belongs to.
        path: its function, as ``module:function``; the module's class where vLLM's own module runs the op.
        who: who gives it: ``mszoo``, ``vLLM``, or the suite and its distribution.
        reason: why it was chosen, for people.
        builtin: it is mszoo's choice, not a suite's.
        cure: how to mend it or do without, for people.
    """

    kernel_set: str
    path: str
    who: str
    reason: str
    builtin: bool = False
    cure: str = "Mend it"


@dataclass(frozen=True)
class Kernels:
    """What runs each op of one model.

    Attributes:
        device: of :data:`mszoo.registry.devices.DEVICES`.
        dtype: the model's dtype, such as "float32".
        base: the built-in kernel set, which runs what no suite's implementation replaces.
        reason: why this set, for people.
        ops: implementation by op name.
    """

    device: str
    dtype: str
    base: str
    reason: str
    ops: Mapping[str, Implementation]

    @property
    def sets(self) -> dict[str, str]:
        """Kernel set by op name."""
        return {op: item.kernel_set for op, item in self.ops.items()}

    @property
    def name(self) -> str:
        """The kernel set that runs most ops."""
        return Counter(self.sets.values()).most_common(1)[0][0]

    @property
    def sums_by_torch(self) -> bool:
        """Whether torch adds between the kernels; MindSpore's threads would keep the cores from the next one."""
        return self.base == "cpu"

    @property
    def from_suites(self) -> dict[str, Implementation]:
        """The ops that suites' implementations run."""
        return {op: item for op, item in self.ops.items() if not item.builtin}

    def set_of(self, op: str) -> str:
        """Return the kernel set that runs ``op``."""
        return self.ops[op].kernel_set

    def by_vllm(self, op: str) -> bool:
        """Say whether vLLM's own module runs ``op``, so that there is no function to call."""
        return self.ops[op].builtin and self.ops[op].path == VLLM_OWNED.get(op)

    def function(self, op: str) -> Callable[..., Any]:
        """Return the implementation of ``op``; a suite's is held to the spec (:mod:`mszoo.kernels.checked`).

        Raises:
            LookupError: vLLM's own module runs this op (:data:`VLLM_OWNED`); call that module instead.
        """
        if self.by_vllm(op):
            raise LookupError(f"the kernel of {op} is called through vLLM's own module")
        item = self.ops[op]
        if item.builtin:
            return load(item.path)
        from mszoo.kernels.checked import checked  # MindSpore comes with it

        return checked(op, load(item.path), f"{item.path} of {item.who}", item.cure)


def load(path: str) -> Callable[..., Any]:
    """Import ``module:function``.

    Raises:
        ImportError, AttributeError: as Python raises them.
        TypeError: it can't be called.
    """
    function = load_object(path)
    if not callable(function):
        raise TypeError(f"{path} is a {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]


def choose(
    requested: str,
    device: str,
    dtype: str,
    from_suites: Mapping[str, Collection[Implementation]] = MappingProxyType({}),
) -> Kernels:
    """Choose an implementation of every op.

    Args:
        requested: ``MSZOO_KERNELS``: "auto", "mindspore", "cpu", "ascend" or a suite's own set.
        device: of :data:`mszoo.registry.devices.DEVICES`.
        dtype: "float32", "bfloat16" or "float16".
        from_suites: by op, the suites' implementations that run on this device, in this dtype, and go before
            the built-in one; the first is the best.

    Raises:
        RefusalError: no built-in set serves this device and dtype, or the requested one doesn't.
    """
    base, reason = _base(requested, device, dtype)
    ops = {}
    for op in SPECS:
        fitting = (item for item in from_suites.get(op, ()) if requested in ("auto", item.kernel_set))
        ops[op] = next(fitting, None) or _builtin(op, base, device, reason)
    return Kernels(device, dtype, base, reason, ops)


def _base(requested: str, device: str, dtype: str) -> tuple[str, str]:
    """Return the built-in kernel set, and why it is that one."""
    runs_on = device_of(requested) or device
    if runs_on != device:
        raise RefusalError(
            f"MSZOO_KERNELS={requested}",
            f"its kernels run on {runs_on.upper()} and this is {device.upper()}",
            "Unset MSZOO_KERNELS",
        )
    if requested == "mindspore" and device == "cpu" and dtype != "float32":
        raise RefusalError(
            "MSZOO_KERNELS=mindspore",
            f"MindSpore's CPU backend multiplies matrices in float32 only, and the model's dtype is {dtype}",
            "Serve with --dtype float32, or unset MSZOO_KERNELS",
        )
    if requested not in KERNELS:
        return TABLE[device].kernels, f"MSZOO_KERNELS={requested} has no such op"
    if requested != "auto":
        return requested, f"MSZOO_KERNELS={requested}"
    return TABLE[device].kernels, f"the fastest set on {device.upper()}"


def _builtin(op: str, kernel_set: str, device: str, reason: str) -> Implementation:
    # Elsewhere only vLLM's backend knows the layout of the cache, and a graph of vLLM's takes its steps.
    by_backend = device != "cpu" and op == "paged_attention"
    if by_backend or (kernel_set == "cpu" and op in VLLM_OWNED):
        return Implementation(kernel_set, VLLM_OWNED[op], "vLLM", reason, builtin=True)
    return Implementation(kernel_set, f"mszoo.kernels.{kernel_set}_set:{op}", "mszoo", reason, builtin=True)


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
