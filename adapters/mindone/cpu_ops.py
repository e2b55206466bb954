"""MindSpore functions without a CPU kernel that MindSpore One's networks call, by numpy and torch.

A decoder calls them before its second step, a tower with every image.

:mod:`mszoo.adapters.mindone.importer` gives them to its files on CPU; signatures are MindSpore's own.
"""

from __future__ import annotations

from typing import Any

from torch.nn import functional

import numpy as np

from mszoo.kernels.exchange import to_mindspore, to_torch

import mindspore as ms
from mindspore import Tensor


def arange(start: Any = 0, end: Any = None, step: Any = 1, *, dtype: Any = None) -> Tensor:
    """See mindspore.mint.arange."""
    if end is None:
        start, end = 0, start
    values = np.arange(start, end, step)
    return Tensor(values, dtype or (ms.float32 if values.dtype.kind == "f" else ms.int64))


def argsort(input: Tensor) -> Tensor:
    """See mindspore.mint.argsort."""
    return Tensor(np.argsort(input.asnumpy(), kind="stable"), ms.int64)


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """See mindspore.mint.einsum."""
    return Tensor(np.einsum(equation, *(operand.asnumpy() for operand in operands)), operands[0].dtype)


def full(size: Any, fill_value: Any, *, dtype: Any = None) -> Tensor:
    """See mindspore.mint.full."""
    found = np.full(tuple(size), fill_value)
    return Tensor(found, dtype or (ms.float32 if found.dtype.kind == "f" else ms.int64))


def gelu(input: Tensor, *, approximate: str = "none") -> Tensor:
    """See mindspore.mint.nn.functional.gelu."""
    return to_mindspore(functional.gelu(to_torch(input), approximate=approximate))


class GELU(ms.nn.Cell):
    """See mindspore.mint.nn.GELU."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def construct(self, input: Tensor) -> Tensor:
        """See mindspore.mint.nn.GELU."""
        return gelu(input, approximate=self.approximate)


def pad(input: Tensor, pad: Any, mode: str = "constant", value: Any = None) -> Tensor:
    """See mindspore.mint.nn.functional.pad; ``mode`` is ``constant``."""
    del mode
    sides = [(0, 0)] * (input.ndim - len(pad) // 2)
    sides += [(pad[index], pad[index + 1]) for index in range(len(pad) - 2, -1, -2)]
    return Tensor(np.pad(input.asnumpy(), sides, constant_values=value or 0), input.dtype)


def repeat_interleave(input: Tensor, repeats: Any, dim: int | None = None) -> Tensor:
    """See mindspore.mint.repeat_interleave."""
    counts = repeats.asnumpy() if isinstance(repeats, Tensor) else repeats
    return Tensor(np.repeat(input.asnumpy(), counts, dim), input.dtype)


def tril(input: Tensor) -> Tensor:
    """See mindspore.mint.tril."""
    return Tensor(np.tril(input.asnumpy()), input.dtype)
