"""Ops of the ``mindspore`` kernel set that stand alone in a step, each as a graph of its own.

Op by op, MindSpore loses memory at every call of a product or a look-up; a graph loses none, but is compiled for
each shape and kept (kernels/README.md). So rows are computed in pieces of a few sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from mszoo.kernels import mindspore_set
from mszoo.kernels.exchange import to_mindspore, to_torch

import mindspore as ms

#: Rows that a product is compiled for: of an output projection each is as wide as the vocabulary.
PRODUCTS = (1, 2, 4, 8, 16, 32, 64)
#: Rows that a look-up is compiled for.
LOOKUPS = (*PRODUCTS, 256)


@ms.jit(jit_level="O1")
def _embedding(ids, weight):  # type: ignore[no-untyped-def]
    return mindspore_set.embedding(ids, weight)


@ms.jit(jit_level="O1")
def _linear(x, weight):  # type: ignore[no-untyped-def]
    return mindspore_set.linear(x, weight)


@ms.jit(jit_level="O1")
def _linear_with_bias(x, weight, bias):  # type: ignore[no-untyped-def]
    return mindspore_set.linear(x, weight, bias)


def embedding(ids: torch.Tensor, weight: ms.Tensor) -> torch.Tensor:
    """Return the rows of ``weight`` [vocab, hidden] that ``ids`` [T] names: [T, hidden]."""
    return _in_pieces(lambda piece: _embedding(piece, weight), ids, LOOKUPS)


def linear(x: torch.Tensor, weight: ms.Tensor, bias: ms.Tensor | None = None) -> torch.Tensor:
    """Return ``x @ weight.T + bias``: [T, in] and [out, in] -> [T, out]."""
    if bias is None:
        return _in_pieces(lambda piece: _linear(piece, weight), x, PRODUCTS)
    return _in_pieces(lambda piece: _linear_with_bias(piece, weight, bias), x, PRODUCTS)


def _in_pieces(
    compute: Callable[[ms.Tensor], ms.Tensor], rows: torch.Tensor, sizes: Sequence[int]
) -> torch.Tensor:
    """Return the results for ``rows`` [T, *], computed in pieces of so many rows; the last is filled up."""
    computed = []
    for piece in rows.split(sizes[-1]):
        size = next(size for size in sizes if size >= len(piece))
        filled = piece.contiguous()
        if size > len(piece):
            filled = rows.new_zeros(size, *rows.shape[1:])
            filled[: len(piece)] = piece
        computed.append(to_torch(compute(to_mindspore(filled)))[: len(piece)])
    return computed[0] if len(computed) == 1 else torch.cat(computed)
