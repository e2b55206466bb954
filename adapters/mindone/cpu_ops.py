"""MindSpore functions, cells and tensor methods without a CPU kernel, or without one for 16 bits.

They are written with those that have one, with numpy, or with torch on the same memory.

:mod:`mszoo.adapters.mindone.importer` gives them to MindSpore One's files on CPU; signatures are MindSpore's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import mindspore as ms  # isort: skip
from mindspore import Tensor, mint, ops  # isort: skip
from mszoo.kernels.exchange import to_mindspore, to_torch  # isort: skip


def call_method(owner: Any, name: str, /, *args: Any, **kwargs: Any) -> Any:
    """Call ``owner.name(...)``: ours if ``owner`` is a tensor, its own otherwise."""
    if isinstance(owner, Tensor):
        return METHODS[name](owner, *args, **kwargs)
    return getattr(owner, name)(*args, **kwargs)


def either(left: Any, right: Any) -> Any:
    """Return ``left | right``; of two tensors of bool by a kernel that CPU has."""
    if isinstance(left, Tensor) and left.dtype == ms.bool_:
        return mint.logical_or(left, right if isinstance(right, Tensor) else Tensor(bool(right)))
    if isinstance(left, Tensor):
        return Tensor(np.bitwise_or(_numpy(left), _numpy(right)))
    return left | right


def item(owner: Any, index: Any) -> Any:
    """Return ``owner[index]``; of a tensor by tensors with torch, since MindSpore's kernel has no 16-bit types."""
    parts = index if isinstance(index, tuple) else (index,)
    if not isinstance(owner, Tensor) or not any(isinstance(part, Tensor) for part in parts):
        return owner[index]
    where = tuple(to_torch(part) if isinstance(part, Tensor) else part for part in parts)
    return to_mindspore(to_torch(owner)[where])


def arange(start: Any = 0, end: Any = None, step: Any = 1, *, dtype: Any = None) -> Tensor:
    """See mindspore.mint.arange."""
    if end is None:
        start, end = 0, start
    start, end, step = map(_scalar, (start, end, step))
    if dtype is None:
        dtype = ms.float32 if any(isinstance(value, float) for value in (start, end, step)) else ms.int64
    return _tensor(np.arange(start, end, step), dtype)


def linspace(start: Any, end: Any, steps: int, *, dtype: Any = None) -> Tensor:
    """See mindspore.mint.linspace."""
    return _tensor(np.linspace(_scalar(start), _scalar(end), steps), dtype or ms.float32)


def full(size: Any, fill_value: Any, *, dtype: Any = None) -> Tensor:
    """See mindspore.mint.full."""
    value = _scalar(fill_value)
    if dtype is None:
        dtype = ms.bool_ if isinstance(value, bool) else ms.int64 if isinstance(value, int) else ms.float32
    return _tensor(np.full((size,) if isinstance(size, int) else tuple(size), value), dtype)


def full_like(input: Tensor, fill_value: Any, *, dtype: Any = None) -> Tensor:
    """See mindspore.mint.full_like."""
    return full(input.shape, fill_value, dtype=dtype or input.dtype)


def ones_like(input: Tensor, *, dtype: Any = None) -> Tensor:
    """See mindspore.mint.ones_like."""
    return mint.ones(tuple(input.shape), dtype=dtype or input.dtype)


def zeros_like(input: Tensor, *, dtype: Any = None) -> Tensor:
    """See mindspore.mint.zeros_like."""
    return mint.zeros(tuple(input.shape), dtype=dtype or input.dtype)


def stack(tensors: Sequence[Tensor], dim: int = 0, axis: int | None = None) -> Tensor:
    """See mindspore.mint.stack, and mindspore.ops.stack, whose ``axis`` it is."""
    dim = dim if axis is None else axis
    return mint.cat([tensor.unsqueeze(dim) for tensor in tensors], dim)


def cumsum(input: Tensor, dim: int | None = None, dtype: Any = None, axis: int | None = None) -> Tensor:
    """See mindspore.mint.cumsum."""
    if dtype is None and input.dtype == ms.bool_:
        dtype = ms.int64
    value = input if dtype is None else input.astype(dtype)
    return ops.cumsum(value, dim if dim is not None else axis)


def topk(
    input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Tensor, Tensor]:
    """See mindspore.mint.topk."""
    return ops.topk(input, int(k), dim, largest, sorted)  # type: ignore[no-any-return]


def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """See mindspore.mint.argmax."""
    return ops.argmax(input, dim, keepdim)


def sort(
    input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False
) -> tuple[Tensor, Tensor]:
    """See mindspore.mint.sort."""
    order = argsort(input, dim, descending, stable)
    return mint.gather(input, dim, order), order


def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    """See mindspore.mint.argsort."""
    values = _numpy(input)
    return Tensor(np.argsort(-values if descending else values, axis=dim, kind="stable"), ms.int64)


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """See mindspore.mint.index_select."""
    return to_mindspore(torch.index_select(to_torch(input), dim, to_torch(index)))


def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    """See mindspore.mint.index_add.

    By torch: where an index comes twice, MindSpore's CPU kernel of tensor_scatter_elements with "add" (2.10) loses
    one of the two now and then; its threads write without a lock.
    """
    added = to_torch(source.astype(input.dtype))
    return to_mindspore(torch.index_add(to_torch(input), dim, to_torch(index), added, alpha=alpha))


def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """See mindspore.mint.nonzero."""
    found = np.nonzero(_numpy(input))
    if as_tuple:
        return tuple(Tensor(axis.astype(np.int64)) for axis in found)
    return Tensor(np.stack(found, -1).astype(np.int64))


def where(condition: Tensor, *values: Any) -> Any:
    """See mindspore.mint.where."""
    return mint.where(condition, *values) if values else nonzero(condition, as_tuple=True)


def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """See mindspore.mint.tril."""
    mask = Tensor(np.tri(input.shape[-2], input.shape[-1], diagonal, dtype=bool))
    return mint.logical_and(input, mask) if input.dtype == ms.bool_ else input * mask.astype(input.dtype)


def scatter(input: Tensor, dim: int, index: Tensor, src: Any) -> Tensor:
    """See mindspore.mint.scatter."""
    values = to_torch(src.astype(input.dtype)) if isinstance(src, Tensor) else src
    return to_mindspore(torch.scatter(to_torch(input), dim, to_torch(index).long(), values))


def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """See mindspore.mint.scatter_add; by torch, as :func:`index_add`."""
    return to_mindspore(torch.scatter_add(to_torch(input), dim, to_torch(index), to_torch(src)))


def repeat_interleave(
    input: Tensor, repeats: Any, dim: int | None = None, *, output_size: Any = None
) -> Tensor:
    """See mindspore.mint.repeat_interleave."""
    if dim is None:
        input, dim = input.reshape(-1), 0
    counts = to_torch(repeats) if isinstance(repeats, Tensor) else repeats
    return to_mindspore(torch.repeat_interleave(to_torch(input), counts, dim))


def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """See mindspore.mint.roll."""
    shifts = (shifts,) if isinstance(shifts, int) else shifts
    if dims is None:
        return roll(input.reshape(-1), shifts, 0).reshape(input.shape)
    for shift, dim in zip(shifts, (dims,) if isinstance(dims, int) else dims, strict=True):
        size = input.shape[dim]
        if shift % size:
            kept = size - shift % size
            head, tail = mint.narrow(input, dim, 0, kept), mint.narrow(input, dim, kept, size - kept)
            input = mint.cat((tail, head), dim)
    return input


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """See mindspore.mint.outer."""
    return input.unsqueeze(-1) * vec2.unsqueeze(0)


def einsum(equation: str, *operands: Any) -> Tensor:
    """See mindspore.mint.einsum."""
    tensors = operands[0] if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
    return _tensor(np.einsum(equation, *map(_numpy, tensors)), tensors[0].dtype)


def norm(
    input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """See mindspore.mint.norm; the Euclidean one.

    Raises:
        NotImplementedError: another norm is asked for.
    """
    if p not in ("fro", 2, 2.0):
        raise NotImplementedError(f"the norm of order {p} has no CPU kernel")
    value = input if dtype is None else input.astype(dtype)
    squares = value * value
    return mint.sqrt(squares.sum() if dim is None else squares.sum(dim, keepdim=keepdim))


def var(input: Tensor, dim: Any = None, *, correction: int = 1, keepdim: bool = False) -> Tensor:
    """See mindspore.mint.var."""
    dims = tuple(range(input.ndim)) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    centred = input - input.mean(dims, True)
    count = math.prod(input.shape[axis] for axis in dims)
    return (centred * centred).sum(dims, keepdim=keepdim) / (count - correction)


def std(input: Tensor, dim: Any = None, *, correction: int = 1, keepdim: bool = False) -> Tensor:
    """See mindspore.mint.std."""
    return mint.sqrt(var(input, dim, correction=correction, keepdim=keepdim))


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """See mindspore.mint.addmm."""
    product = matmul(mat1, mat2)
    return (input if beta == 1 else input * beta) + (product if alpha == 1 else product * alpha)


def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """See mindspore.mint.baddbmm."""
    return beta * input + alpha * matmul(batch1, batch2)


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """See mindspore.mint.matmul."""
    return to_mindspore(torch.matmul(to_torch(input), to_torch(other)))


def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """See mindspore.mint.bmm."""
    return matmul(input, mat2)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See mindspore.mint.nn.functional.linear."""
    product = torch.nn.functional.linear(
        to_torch(input), to_torch(weight), None if bias is None else to_torch(bias)
    )
    return to_mindspore(product)


def bincount(input: Tensor, weights: None = None, minlength: int = 0) -> Tensor:
    """See mindspore.mint.bincount."""
    return Tensor(np.bincount(_numpy(input), weights, minlength), ms.int64)


def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """See mindspore.mint.histc."""
    return _tensor(np.histogram(_numpy(input), bins, (min, max))[0], input.dtype)


def embedding(input: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
    """See mindspore.mint.nn.functional.embedding."""
    return to_mindspore(torch.nn.functional.embedding(to_torch(input), to_torch(weight)))


def rms_norm(x: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    """See mindspore.ops.rms_norm."""
    wide = x.astype(ms.float32)
    scale = mint.rsqrt((wide * wide).mean(-1, True) + epsilon)
    return (wide * scale * gamma.astype(ms.float32)).astype(x.dtype), scale


def layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """See mindspore.mint.nn.functional.layer_norm."""
    size = 1 if isinstance(normalized_shape, int) else len(normalized_shape)
    axes, wide = tuple(range(-size, 0)), input.astype(ms.float32)
    centred = wide - wide.mean(axes, True)
    result = centred * mint.rsqrt((centred * centred).mean(axes, True) + eps)
    if weight is not None:
        result = result * weight.astype(ms.float32)
    if bias is not None:
        result = result + bias.astype(ms.float32)
    return result.astype(input.dtype)


def gelu(input: Tensor, *, approximate: str = "none") -> Tensor:
    """See mindspore.mint.nn.functional.gelu."""
    if approximate == "tanh":
        inner = math.sqrt(2 / math.pi) * (input + 0.044715 * input * input * input)
        return (0.5 * input * (1 + mint.tanh(inner))).astype(input.dtype)
    return (0.5 * input * (1 + mint.erf(input / math.sqrt(2.0)))).astype(input.dtype)


def sigmoid(input: Tensor) -> Tensor:
    """See mindspore.mint.nn.functional.sigmoid."""
    return to_mindspore(torch.sigmoid(to_torch(input)))


def log_softmax(input: Tensor, dim: int | None = None, dtype: Any = None) -> Tensor:
    """See mindspore.mint.nn.functional.log_softmax."""
    return ops.log_softmax(input if dtype is None else input.astype(dtype), -1 if dim is None else dim)


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """See mindspore.mint.nn.functional.normalize."""
    return input / mint.clamp(norm(input, p, dim, True), min=eps)


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """See mindspore.mint.nn.functional.one_hot."""
    classes = num_classes if num_classes > 0 else int(tensor.max().item()) + 1
    return (tensor.unsqueeze(-1) == arange(classes, dtype=tensor.dtype)).astype(ms.int64)


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """See mindspore.mint.nn.functional.pad; the constant one.

    Raises:
        NotImplementedError: another mode is asked for.
    """
    if mode != "constant":
        raise NotImplementedError(f"padding by {mode!r} has no CPU kernel")
    for index in range(len(pad) // 2):
        dim = input.ndim - 1 - index
        before, after = int(pad[2 * index]), int(pad[2 * index + 1])
        start, stop = max(0, -before), input.shape[dim] - max(0, -after)
        pieces = [mint.narrow(input, dim, start, stop - start)]
        shape = list(input.shape)
        if before > 0:
            shape[dim] = before
            pieces.insert(0, full(shape, value or 0, dtype=input.dtype))
        if after > 0:
            shape[dim] = after
            pieces.append(full(shape, value or 0, dtype=input.dtype))
        input = mint.cat(pieces, dim) if len(pieces) > 1 else pieces[0]
    return input


class Embedding(mint.nn.Embedding):  # type: ignore[misc]
    """See mindspore.mint.nn.Embedding."""

    def construct(self, input: Tensor) -> Tensor:
        """Look up rows of the table."""
        return embedding(input, self.weight)


class LayerNorm(mint.nn.LayerNorm):  # type: ignore[misc]
    """See mindspore.mint.nn.LayerNorm."""

    def construct(self, input: Tensor) -> Tensor:
        """Normalise the last axes."""
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class GELU(mint.nn.GELU):  # type: ignore[misc]
    """See mindspore.mint.nn.GELU."""

    def construct(self, input: Tensor) -> Tensor:
        """Apply it."""
        return gelu(input, approximate=self.approximate)


def _repeat(tensor: Tensor, *repeats: Any) -> Tensor:
    counts = _size(repeats)
    return mint.tile(tensor.reshape((1,) * (len(counts) - tensor.ndim) + tuple(tensor.shape)), counts)


def _assign(tensor: Tensor, value: Tensor) -> Tensor:
    if isinstance(tensor, ms.Parameter):
        tensor.set_data(value)
    else:
        tensor.assign_value(value)
    return tensor


def _div(tensor: Tensor, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    if rounding_mode != "trunc":
        return tensor.div(other, rounding_mode=rounding_mode)
    whole = _numpy(tensor) / _numpy(other)
    return _tensor(np.trunc(whole), tensor.dtype)


def _scatter_(tensor: Tensor, dim: int, index: Tensor, src: Any) -> Tensor:
    return _assign(tensor, scatter(tensor, dim, index, src))


def _index_add_(tensor: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    return _assign(tensor, index_add(tensor, dim, index, source, alpha=alpha))


def _unchanged(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    """Leave a parameter as it is: initial values are overwritten by the checkpoint's."""
    return tensor


def _new(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda tensor, *size, dtype=None: function(_size(size), dtype=dtype or tensor.dtype)


#: By name: the tensor methods that have no CPU kernel.
METHODS: dict[str, Callable[..., Any]] = {
    "addmm": addmm,
    "argmax": argmax,
    "argsort": argsort,
    "bitwise_or": either,
    "clamp_": lambda tensor, **bounds: to_mindspore(to_torch(tensor).clamp_(**bounds)),
    "clone": lambda tensor: tensor.copy(),
    "cumsum": cumsum,
    "div": _div,
    "fill_": lambda tensor, value: _assign(tensor, full(tensor.shape, value, dtype=tensor.dtype)),
    "index_add": index_add,
    "index_add_": _index_add_,
    "new_ones": _new(mint.ones),
    "new_zeros": _new(mint.zeros),
    "nonzero": nonzero,
    "normal_": _unchanged,
    "repeat": _repeat,
    "repeat_interleave": repeat_interleave,
    "scatter": scatter,
    "scatter_": _scatter_,
    "scatter_add": scatter_add,
    "sort": sort,
    "std": std,
    "topk": topk,
    "tril": tril,
    "trunc_normal_": _unchanged,
    "uniform_": _unchanged,
    "var": var,
    "zero_": lambda tensor: _assign(tensor, mint.zeros(tuple(tensor.shape), dtype=tensor.dtype)),
}


def _scalar(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def _size(size: Sequence[Any]) -> tuple[int, ...]:
    if len(size) == 1 and isinstance(size[0], (tuple, list)):
        size = size[0]
    return tuple(int(_scalar(value)) for value in size)


def _numpy(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    # MindSpore has no bfloat16 for numpy 2.
    return (value.astype(ms.float32) if value.dtype == ms.bfloat16 else value).asnumpy()


def _tensor(array: Any, dtype: Any) -> Tensor:
    if dtype == ms.bfloat16:
        return Tensor(np.asarray(array, np.float32)).astype(ms.bfloat16)
    return Tensor(array, dtype)
