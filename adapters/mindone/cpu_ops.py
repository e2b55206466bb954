"""MindSpore functions without a CPU kernel that MindSpore One's networks call before their second step, by numpy.

:mod:`mszoo.adapters.mindone.importer` gives them to its files on CPU; signatures are MindSpore's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import mindspore as ms
from mindspore import Tensor


def arange(start: Any = 0, end: Any = None, step: Any = 1, *, dtype: Any = None) -> Tensor:
    """See mindspore.mint.arange."""
    if end is None:
        start, end = 0, start
    values = np.arange(start, end, step)
    return Tensor(values, dtype or (ms.float32 if values.dtype.kind == "f" else ms.int64))


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """See mindspore.mint.einsum."""
    return Tensor(np.einsum(equation, *(operand.asnumpy() for operand in operands)), operands[0].dtype)


def repeat_interleave(input: Tensor, repeats: int, dim: int) -> Tensor:
    """See mindspore.mint.repeat_interleave."""
    return Tensor(np.repeat(input.asnumpy(), repeats, dim), input.dtype)


def tril(input: Tensor) -> Tensor:
    """See mindspore.mint.tril."""
    return Tensor(np.tril(input.asnumpy()), input.dtype)
