"""Tensors between torch and MindSpore: every rule of the exchange in one place.

On CPU both frameworks compute on ordinary process memory, so a tensor of one can be a view of the other's:

* ``to_mindspore`` goes through numpy, and through DLPack where numpy can't: MindSpore's ``from_dlpack`` takes
  0.3 to 0.4 ns an element, a millisecond for what a long prompt computes. MindSpore reads the torch memory at every
  op, so a view that was made once keeps seeing what torch writes later.
* ``to_torch`` reads MindSpore's data pointer. MindSpore's own ``to_dlpack`` hands off to another thread, which
  costs up to a millisecond in a worker whose main thread is pinned to a core, so it is not used.

A view keeps its owner alive. Each direction remembers the other side (``torch -> mindspore`` on views made by
``to_torch`` and ``mindspore -> torch`` on views made by ``to_mindspore``), so a tensor that goes back costs an
attribute look-up and never a chain of views. Reading a data pointer is right only when MindSpore runs
synchronously: :mod:`mszoo.kernels.runtime` sees to that.

On an NPU both libraries put work on streams of their own, by way of queues of their own, and each reuses memory in
the order of its own stream (README.md: why events don't do). So MindSpore finishes an op before it returns, and
``to_mindspore`` waits for torch's current stream: no order is left to chance, at the price of these waits.

MindSpore's stock CPU ops never write into foreign memory (they write a copy), so results that must land in
torch memory are copied there by torch. Op by op (not inside a graph) they also copy foreign memory before they read
it: what is large and read at each step, such as a weight, is therefore moved into memory of MindSpore's own, which
torch then views (:func:`move_to_mindspore`).

Two misuses give wrong numbers instead of an error: memory that moves under a view (``resize_``, ``set_``), and
MindSpore running asynchronously. :func:`checked` catches both; it is for tests and authors, at a few microseconds a
crossing.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

# torch comes first: its OpenMP runtime then serves both frameworks.
import torch
import torch.utils.dlpack as torch_dlpack

from mszoo.kernels import runtime
from mszoo.registry.errors import MszooError

import mindspore as ms
from mindspore.utils import dlpack as ms_dlpack

__all__ = ["ExchangeError", "ParameterView", "checked", "move_to_mindspore", "to_mindspore", "to_torch"]

#: MindSpore dtypes and what torch calls them.
TORCH_DTYPE = {
    ms.float32: torch.float32,
    ms.bfloat16: torch.bfloat16,
    ms.float16: torch.float16,
    ms.float64: torch.float64,
    ms.int64: torch.int64,
    ms.int32: torch.int32,
    ms.int16: torch.int16,
    ms.int8: torch.int8,
    ms.uint8: torch.uint8,
    ms.bool_: torch.bool,
}
_EXCHANGEABLE = frozenset(TORCH_DTYPE.values())
#: Elements from which on a bfloat16 tensor goes through numpy: numpy lacks the dtype, so MindSpore makes a view of
#: the view, which takes as long as DLPack does for this many, right after a product that emptied the caches.
_MANY = 200_000


class ExchangeError(MszooError):
    """A tensor is exchanged in a way that would give wrong numbers; raised in checked mode only."""


_checking = False


@contextlib.contextmanager
def checked() -> Iterator[None]:
    """Check every exchange of this process inside.

    Raises:
        ExchangeError: from the exchange that is wrong.
    """
    global _checking  # noqa: PLW0603  one look at a global is all that an unchecked exchange pays
    before, _checking = _checking, True
    try:
        yield
    finally:
        _checking = before


def to_torch(tensor: ms.Tensor) -> torch.Tensor:
    """View a MindSpore tensor as a torch tensor of the same shape, strides and dtype, without a copy.

    Raises:
        TypeError: the dtype has no counterpart in torch.
    """
    view = getattr(tensor, "_mszoo_torch", None)
    if _checking:
        _check_synchronous()
        if view is not None:
            _check_same_memory(view, tensor)
    if view is not None:
        return view
    dtype = TORCH_DTYPE.get(tensor.dtype)
    if dtype is None:
        raise TypeError(f"a MindSpore tensor of {tensor.dtype} has no view in torch: cast it first")
    shape = tensor.shape
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    on_host = tensor.device == "CPU"
    view = (
        _on_host(tensor, shape, dtype) if on_host else torch_dlpack.from_dlpack(ms_dlpack.to_dlpack(tensor))
    )
    view._mszoo_mindspore = tensor
    return view


def _on_host(tensor: ms.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    strides = tensor.stride()
    # data_ptr() is the address of element 0, whatever the storage offset is.
    elements = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    buffer = (ctypes.c_byte * (elements * tensor.itemsize)).from_address(tensor.data_ptr())
    buffer._owner = tensor  # torch keeps the buffer, the buffer keeps MindSpore's memory
    flat = torch.frombuffer(buffer, dtype=dtype)
    return flat.view(shape) if tensor.is_contiguous() else flat.as_strided(shape, strides)


def to_mindspore(tensor: torch.Tensor) -> ms.Tensor:
    """View a torch tensor as a MindSpore tensor of the same shape, strides and dtype, without a copy.

    A bool tensor that isn't contiguous is the exception: DLPack between the two has no bool, so it is copied.

    Raises:
        TypeError: the dtype (float8 and so on) cannot be exchanged.
    """
    if not tensor.is_cpu:
        # torch's work waits on a stream that MindSpore's doesn't know. What torch wrote into a view, as vLLM's LoRA
        # and collectives do, counts too.
        torch.accelerator.current_stream().synchronize()
    view = getattr(tensor, "_mszoo_mindspore", None)
    if _checking:
        _check_synchronous()
        if view is not None:
            _check_same_memory(tensor, view)
    if view is not None:
        return view
    if tensor.dtype not in _EXCHANGEABLE:
        raise TypeError(f"a torch tensor of {tensor.dtype} has no view in MindSpore: cast it first")
    view = _view(tensor.detach() if tensor.requires_grad else tensor)
    view._mszoo_torch = tensor
    return view


def _view(tensor: torch.Tensor) -> ms.Tensor:
    if not tensor.is_cpu:
        return ms_dlpack.from_dlpack(torch_dlpack.to_dlpack(tensor))
    contiguous = tensor.is_contiguous()
    if contiguous and tensor.dtype is not torch.bfloat16:
        return ms.Tensor.from_numpy(tensor.numpy())
    if contiguous and tensor.numel() > _MANY:
        return ms.Tensor.from_numpy(tensor.view(torch.int16).numpy()).view(ms.bfloat16)
    if tensor.dtype is torch.bool:
        return ms_dlpack.from_dlpack(torch_dlpack.to_dlpack(tensor.view(torch.uint8))).astype(ms.bool_)
    return ms_dlpack.from_dlpack(torch_dlpack.to_dlpack(tensor))


def move_to_mindspore(tensor: torch.Tensor) -> None:
    """Move a torch tensor's memory into MindSpore's: the same tensor, values and layout; nothing if it is there.

    On a device both read each other's memory where it lies, and vLLM counts what torch allocates: a tensor stays.

    Raises:
        TypeError: as :func:`to_mindspore`.
    """
    if tensor.is_cpu and _owned(tensor) is None:
        owned = to_mindspore(tensor.data).copy()
        tensor.data = to_torch(owned)
        tensor._mszoo_mindspore = owned


def _owned(tensor: torch.Tensor) -> ms.Tensor | None:
    """Return the MindSpore tensor whose memory is the torch tensor's, or None."""
    owned = getattr(tensor, "_mszoo_mindspore", None)
    return owned if owned is not None and owned.data_ptr() == tensor.data_ptr() else None


def _check_synchronous() -> None:
    if not runtime.prepare.cache_info().currsize:
        raise ExchangeError(
            "exchange",
            "MindSpore computes asynchronously, so a view may be read before its tensor is computed",
            "Call mszoo.kernels.runtime.prepare before the first exchange",
        )


def _check_same_memory(in_torch: torch.Tensor, in_mindspore: ms.Tensor) -> None:
    if 0 in in_torch.shape:
        return
    if in_torch.data_ptr() != in_mindspore.data_ptr() or tuple(in_torch.shape) != tuple(in_mindspore.shape):
        raise ExchangeError(
            "exchange",
            f"a tensor of shape {tuple(in_torch.shape)} and the view that was made of it no longer share memory",
            "Don't resize_ or set_ a tensor that was exchanged: make a new one",
        )


class ParameterView:
    """A MindSpore view of a torch parameter, made once and made again only if the parameter moved.

    vLLM may give a parameter new memory (weight reload, post-processing), so the address is compared on each
    use; that costs a fraction of a microsecond, a new view tens of them.
    """

    __slots__ = ("_address", "_view")

    def __init__(self) -> None:
        self._address = -1
        self._view: ms.Tensor | None = None

    def of(self, parameter: torch.Tensor) -> ms.Tensor:
        """Return the view of ``parameter``: same shape and dtype."""
        address = parameter.data_ptr()
        if address != self._address:
            owned = _owned(parameter)
            self._view = to_mindspore(parameter.data) if owned is None else owned
            self._address = address
        return self._view
