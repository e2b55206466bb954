"""Decoder layers of MindSpore One's families, computed by mszoo's layers.

Sizes, biases and scales are read off the suite's cells, and how families differ beyond that is declared in
:mod:`mszoo.adapters.mindone.families`. The rotary embedding stays the suite's: its cosines and sines become the
table of a step.
"""

from __future__ import annotations

from typing import Any

from mszoo.adapters.mindone.cells import norm_of, with_batch, without_batch
from mszoo.adapters.mindone.experts import MixtureOfExperts, activation_of, is_mixture
from mszoo.adapters.mindone.families import Family, family_of
from mszoo.adapters.mindone.mlp import MLP, gate_of
from mszoo.adapters.mindone.projections import first, has
from mszoo.adapters.mindone.self_attention import Rotation, SelfAttention, rotation
from mszoo.layers import FusedDecoderLayer, Module, Parts, RMSNorm
from mszoo.layers.cells import CellStays
from mszoo.layers.norm import Norm
from mszoo.layers.residual import stream_sum

import mindspore as ms  # isort: skip
from mszoo.kernels.exchange import to_torch  # isort: skip

# What families call the same thing.
_MLP = ("mlp", "block_sparse_moe")


class DecoderLayer(Module):
    """A family's decoder layer: attention and MLP on a residual stream, one after the other or side by side.

    Args:
        cell: the suite's decoder layer.
        prefix: its name.

    Raises:
        CellStays: it does something else too.
        RefusalError: as :class:`mszoo.layers.Attention`.
    """

    #: What comes after attention.
    feed_forward: MLP | MixtureOfExperts

    def __init__(self, cell: ms.nn.Cell, *, prefix: str) -> None:
        super().__init__()
        if has(cell, "crossattention") or not getattr(cell, "do_layer_norm_before", True):
            raise CellStays(f"{prefix} attends to an encoder too, or norms the stream itself")
        family = self._family = family_of(type(cell).__module__)
        self._parallel = family.parallel or getattr(cell, "use_parallel_residual", False)
        attention = getattr(cell, family.attention)
        self.add_module(family.attention, SelfAttention(attention, family, f"{prefix}.{family.attention}"))
        if family.flat_mlp:
            mlp: MLP | MixtureOfExperts = MLP(cell, family, prefix, owner=self)
        else:
            name = first(cell, _MLP)
            mlp = mlp_of(cell, family, prefix, name)
            self.add_module(name, mlp)
        self.__dict__["feed_forward"] = mlp
        #: GraniteMoeShared has the shared experts beside the mixture, not in it.
        self.shared_mlp = None
        if has(cell, "shared_mlp"):
            self.shared_mlp = MLP(cell.shared_mlp, family, f"{prefix}.shared_mlp")
        names = [None if name is None or not has(cell, name) else name for name in family.norms]
        for name in filter(None, names):
            self.add_module(name, norm_of(getattr(cell, name)))
        self._norm_names = names
        self._multiplier = float(getattr(cell, "residual_multiplier", 1.0))
        self._sum = stream_sum()
        # Gemma 3 has a rotary embedding for each kind of layer.
        kind = "local" if getattr(attention, "is_sliding", False) else "global"
        self._own_embeddings = f"position_embeddings_{kind}"
        self._is_dense = isinstance(self.feed_forward, MLP)
        # Experts get what they compute beside the stream.
        self.fused = FusedDecoderLayer(self._parts, carries=not self._is_dense)

    def forward(
        self,
        hidden_states: ms.Tensor,
        *_: Any,
        position_embeddings: tuple[ms.Tensor, ms.Tensor] | None = None,
        **others: Any,
    ) -> ms.Tensor | tuple[ms.Tensor]:
        """Compute what the cell does: [1, T, hidden] -> the same; ``hidden_states`` may be overwritten.

        What GPT-BigCode gives by place is None: a cache, masks, an encoder's states.
        """
        x = without_batch(hidden_states)
        turned: Rotation | None = None
        if self._attention.table is not None:
            turned = without_batch(others["position_ids"]), self._attention.table
        elif self._attention.rotation:
            given = others[self._own_embeddings] if position_embeddings is None else position_embeddings
            turned = rotation(given, self._family, to_torch(x).dtype)
        rows, table = (None, None) if turned is None else (turned[0], to_torch(turned[1]))
        fused = self.fused(rows, x, table=table)
        if fused is None:
            output = self._by_parts(x, turned)
        else:
            output = fused[0] if self._is_dense else self._add_mlp(*fused)
        batched = with_batch(output)
        return (batched,) if self._family.returns_tuple else batched

    @property
    def _attention(self) -> SelfAttention:
        attention = self._modules[self._family.attention]
        assert isinstance(attention, SelfAttention)
        return attention

    def _by_parts(self, x: ms.Tensor, turned: Rotation | None) -> ms.Tensor:
        """[T, hidden] -> [T, hidden], as decoder_layer.cpp does it."""
        before_attention, after_attention, before_mlp, _ = self._norms()
        multiplier = self._multiplier
        residual = x
        normed = residual if before_attention is None else before_attention(residual)
        x = self._attention(normed, turned)
        if self._parallel:
            beside = self.feed_forward(normed if before_mlp is None else before_mlp(residual))
            return self._sum(self._sum(residual, x, multiplier), beside, multiplier)
        if after_attention is not None:
            x = after_attention(x)
        if type(before_mlp) is RMSNorm and multiplier == 1.0:
            x, residual = before_mlp(x, residual)
        else:
            residual = self._sum(residual, x, multiplier)
            x = residual if before_mlp is None else before_mlp(residual)
        return self._add_mlp(x, residual)

    def _add_mlp(self, x: ms.Tensor, residual: ms.Tensor | None) -> ms.Tensor:
        """Return the stream and what the MLP makes of ``x``, the normed stream: [T, hidden] each."""
        before_mlp, after_mlp = self._norms()[2:]
        if before_mlp is None:
            x = residual
        y = self.feed_forward(x)
        if self.shared_mlp is not None:
            to_torch(y).add_(to_torch(self.shared_mlp(x)))
        if after_mlp is not None:
            y = after_mlp(y)
        return self._sum(residual, y, self._multiplier)

    def _norms(self) -> list[Norm | None]:
        return [None if name is None else getattr(self, name) for name in self._norm_names]

    def _parts(self) -> Parts:
        before_attention, after_attention, before_mlp, after_mlp = self._norms()
        attention = self._attention
        mlp = self.feed_forward if isinstance(self.feed_forward, MLP) else None
        return Parts(
            before_attention=before_attention,
            after_attention=after_attention,
            before_mlp=before_mlp,
            after_mlp=after_mlp,
            qkv_proj=attention.qkv,
            head_norms=attention.head_norms,
            attn=attention.attn,
            o_proj=attention.output,
            up_proj=None if mlp is None else mlp.up,
            activation="" if mlp is None else mlp.activation,
            down_proj=None if mlp is None else mlp.down,
            rotation=attention.rotation,
            norms_late=attention.norms_late,
            parallel=self._parallel,
            multiplier=self._multiplier,
        )


def mlp_of(layer: ms.nn.Cell, family: Family, prefix: str, name: str) -> MLP | MixtureOfExperts:
    """Return what takes the place of a layer's MLP, or of its mixture of experts.

    Args:
        layer: the suite's decoder layer.
        family: its family.
        prefix: its name.
        name: the MLP's, in the layer.

    Raises:
        CellStays, RefusalError: as :class:`MLP` and :class:`MixtureOfExperts`.
    """
    cell, path, mixture = getattr(layer, name), f"{prefix}.{name}", family.mixture
    if mixture is None or not is_mixture(cell):
        return MLP(cell, family, path)
    hidden_act = gate_of(activation_of(cell, mixture), path)
    shared = getattr(cell, mixture.shared, None)
    if shared is not None:
        shared = MLP(shared, family, f"{path}.{mixture.shared}")
    return MixtureOfExperts(cell, mixture, hidden_act, shared, path)
