"""The bias of attention's scores by how far two tokens are apart."""

from __future__ import annotations

import math
import weakref
from typing import Any

import torch
from torch.nn import functional

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.decoder.projections import transposed_tensors
from mszoo.layers.decoder.spec import RelativeBiasSpec
from mszoo.layers.linear import apply_linear, column_linear
from mszoo.layers.model import Module
from mszoo.layers.weights import Expected


class RelativeBias(Module):
    """A bias for each head and distance, of all layers alike.

    The table is a projection of distances, so that ranks share out its heads as they do those of projections.

    Args:
        spec: what it is.
        num_heads: heads of all ranks.
        prefix: its name, unique in the model.
    """

    def __init__(self, spec: RelativeBiasSpec, num_heads: int, *, prefix: str) -> None:
        super().__init__()
        self._spec, self._dtype = spec, torch.get_default_dtype()
        self.table = column_linear(spec.num_embeddings, num_heads, bias=False, prefix=f"{prefix}.table")
        self._step: tuple[weakref.ref[Any], torch.Tensor] | None = None

    def of(self, step: Any, length: int) -> torch.Tensor:
        """Return the bias of the tokens of a sequence on each other: [H, length, length], H on this rank.

        Args:
            step: what stands for the step; layers that come with the same get what the first of them computed.
            length: of the longest sequence in the step: a shorter one's bias is a corner of it.
        """
        if self._step is None or self._step[0]() is not step:
            self._step = weakref.ref(step), self._compute(length)
        return self._step[1]

    def checkpoint_tensors(self, name: str) -> dict[str, Expected]:
        """See :class:`mszoo.layers.weights.HasOwnTensors`: the table is [buckets, heads], and not called so."""
        return {
            f"{name}.weight": tensor for tensor in transposed_tensors(f"{name}.table", self.table).values()
        }

    def _compute(self, length: int) -> torch.Tensor:
        distances = torch.arange(1 - length, length)
        rows = functional.one_hot(bucket(distances, self._spec), self._spec.num_embeddings)
        by_distance = to_torch(apply_linear(self.table, to_mindspore(rows.to(self._dtype))))
        # The window that begins at a row has the distances of the token that many before the last.
        return by_distance.t().contiguous().unfold(1, length, 1).flip(1)


def bucket(distances: torch.Tensor, spec: RelativeBiasSpec) -> torch.Tensor:
    """Return the bucket of each distance, which is above 0 where the other token is ahead."""
    half = spec.num_buckets // 2
    exact = half // 2
    far = distances.abs()
    growth = torch.log(far.clamp(min=1).float() / exact) / math.log(spec.max_distance / exact)
    ranged = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(far < exact, far, ranged) + half * (distances > 0)
