"""The arithmetic of MindSpore One's own cells by torch, on the memory of their tensors: part of the ``cpu`` set.

Inside a vLLM worker a MindSpore op costs tenths of a millisecond: its threads and those of vLLM's kernels share the
few cores that vLLM pins, and each waits for the other. The names here are what the decoders call between the layers
that are replaced; signatures are MindSpore's own, which follow torch's but for ``axis`` and ``keep_dims``.
:mod:`mszoo.adapters.mindone.importer` puts them in place; with the ``mindspore`` set MindSpore computes it, but for
what :mod:`mszoo.adapters.mindone.cpu_ops` holds.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

import mindspore as ms  # isort: skip
from mindspore import Tensor  # isort: skip
from mszoo.adapters.mindone import cpu_ops  # isort: skip
from mszoo.kernels.exchange import TORCH_DTYPE, to_mindspore, to_torch  # isort: skip

_RENAMED = {"axis": "dim", "keep_dims": "keepdim"}


def _given(value: Any) -> Any:
    """Return an argument as torch takes it."""
    if isinstance(value, Tensor):
        return to_torch(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_given(item) for item in value)
    return TORCH_DTYPE.get(value, value) if isinstance(value, type(ms.float32)) else value


def _made(value: Any) -> Any:
    """Return a result as MindSpore gives it."""
    if isinstance(value, torch.Tensor):
        return to_mindspore(value)
    return tuple(_made(item) for item in value) if isinstance(value, (list, tuple)) else value


def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    given = {_RENAMED.get(name, name): _given(value) for name, value in kwargs.items()}
    return _made(function(*[_given(value) for value in args], **given))


def _of(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: _call(function, *args, **kwargs)


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mult": operator.mul,
    "Div": operator.truediv,
    "Pow": operator.pow,
    "MatMult": operator.matmul,
}


def binary(name: str, left: Any, right: Any) -> Any:
    """Return ``left + right`` and so on, by the name that :mod:`ast` has for it."""
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        return _made(_BINARY[name](_given(left), _given(right)))
    return _BINARY[name](left, right)


def negative(value: Any) -> Any:
    """Return ``-value``."""
    return to_mindspore(-to_torch(value)) if isinstance(value, Tensor) else -value


def item(owner: Any, index: Any) -> Any:
    """Return ``owner[index]``."""
    if isinstance(owner, ms.nn.CellList) and isinstance(index, slice):
        return list(owner)[index]  # a CellList of its own would be built at each step
    if not isinstance(owner, Tensor):
        return owner[index]
    return _made(to_torch(owner)[_given(index)])


def _reshape(tensor: torch.Tensor, *shape: Any) -> torch.Tensor:
    return tensor.reshape(*shape)


def _transpose(tensor: torch.Tensor, *axes: Any) -> torch.Tensor:
    axes = tuple(axes[0]) if len(axes) == 1 else axes
    return tensor.transpose(*axes) if len(axes) == 2 else tensor.permute(*axes)


def _softmax(input: torch.Tensor, dim: int = -1, dtype: Any = None) -> torch.Tensor:
    return torch.softmax(input, dim, dtype=dtype)


def _dropout(input: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return input


#: Functions that are methods of tensors too.
_BOTH = (
    "abs",
    "broadcast_to",
    "chunk",
    "clamp",
    "cos",
    "exp",
    "matmul",
    "mean",
    "permute",
    "pow",
    "rsqrt",
    "sigmoid",
    "sin",
    "split",
    "sqrt",
    "square",
    "squeeze",
    "sum",
    "swapaxes",
    "tanh",
    "unsqueeze",
)

#: By name: functions of ``mint``, ``mint.nn.functional`` and, but for those of DIFFERENT, ``ops``.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: _of(getattr(torch, name))
    for name in (
        *_BOTH,
        "add",
        "cat",
        "concat",
        "gather",
        "mul",
        "narrow",
        "neg",
        "stack",
    )
} | {
    "transpose": _of(_transpose),
    "dropout": _of(_dropout),
    "relu": _of(functional.relu),
    "silu": _of(functional.silu),
    "softmax": _of(_softmax),
}

#: Names that mean something else in ``ops``: its ``gather`` is mint's ``index_select``.
DIFFERENT = frozenset({"gather"})

#: By name: methods of tensors.
METHODS: dict[str, Callable[..., Any]] = {
    name: _of(getattr(torch.Tensor, name))
    for name in (
        *_BOTH,
        "contiguous",
        "expand",
        "flatten",
        "float",
        "type_as",
    )
} | {"reshape": _of(_reshape), "transpose": _of(_transpose), "view": _of(_reshape)}


def _to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    dtype = TORCH_DTYPE.get(kwargs.get("dtype", args[0] if args else None))
    if dtype is None or len(args) + len(kwargs) != 1:
        return tensor.to(*args, **kwargs)
    return to_mindspore(to_torch(tensor).to(dtype))


METHODS |= {"to": _to, "astype": _to}
globals().update({name: function for name, function in FUNCTIONS.items() if name not in globals()})


def call_method(owner: Any, name: str, /, *args: Any, **kwargs: Any) -> Any:
    """Call ``owner.name(...)``: ours if ``owner`` is a tensor, its own otherwise."""
    if isinstance(owner, Tensor):
        return (METHODS.get(name) or cpu_ops.METHODS[name])(owner, *args, **kwargs)
    return getattr(owner, name)(*args, **kwargs)
