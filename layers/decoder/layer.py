"""THE decoder layer: one spec, computed op by op here, or as a whole where nothing needs its parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from mszoo.kernels.exchange import to_torch
from mszoo.layers.concatenation import concatenation
from mszoo.layers.decoder.attention import SelfAttention
from mszoo.layers.decoder.build import build_norm
from mszoo.layers.decoder.compiled import CompiledPath
from mszoo.layers.decoder.latent_attention import LatentAttention
from mszoo.layers.decoder.mlp import MLP, MixtureOfExperts
from mszoo.layers.decoder.spec import AttentionSpec, DecoderLayerSpec, MoESpec
from mszoo.layers.model import Module, add_part, outside_the_tree
from mszoo.layers.norm import Norm, RMSNorm
from mszoo.layers.residual import stream_sum

import mindspore as ms

#: Gets the residual stream: [T, hidden], and what is to be added to it, or None.
Tap: TypeAlias = Callable[[ms.Tensor, ms.Tensor | None], None]


class DecoderLayer(Module):
    """One layer: attention and MLP on a residual stream.

    Args:
        spec: what it is.
        prefix: its name, unique in the model.
        carries_residual: whether the caller takes the residual stream in two parts where the spec allows it.

    Attributes:
        has_experts: whether the MLP is a mixture of experts.
        attention: its first half.
        mlp: its second half.
        compiled: runs it in one call where it can.
        tap_before, tap_after: who gets the residual stream before and after it; see
            :mod:`mszoo.layers.decoder.taps`.

    Raises:
        RefusalError: naming what can't be computed.
    """

    attention: SelfAttention | LatentAttention
    mlp: MLP | MixtureOfExperts

    def __init__(self, spec: DecoderLayerSpec, *, prefix: str, carries_residual: bool = True) -> None:
        super().__init__()
        self.spec, self.has_experts = spec, spec.has_experts
        self.carries_residual = carries_residual and spec.carries_residual
        hidden, of_attention, of_mlp = spec.hidden_size, spec.attention, spec.mlp
        attention: SelfAttention | LatentAttention
        if isinstance(of_attention, AttentionSpec):
            attention = SelfAttention(
                of_attention,
                hidden,
                prefix=f"{prefix}.{of_attention.name}",
                input_size=hidden if spec.norm_beside is None else 2 * hidden,
            )
        else:
            attention = LatentAttention(of_attention, hidden, prefix=f"{prefix}.{of_attention.name}")
        add_part(self, of_attention.name, attention)
        mlp: MLP | MixtureOfExperts
        if isinstance(of_mlp, MoESpec):
            mlp = MixtureOfExperts(
                of_mlp,
                hidden,
                prefix=f"{prefix}.{of_mlp.name}",
                owns_input=spec.norm_before_mlp is not None and spec.shared_mlp is None,
            )
        elif of_mlp.name:
            mlp = MLP(of_mlp, hidden, prefix=f"{prefix}.{of_mlp.name}")
        else:
            mlp = MLP(of_mlp, hidden, prefix=prefix, owner=self)
        if of_mlp.name:
            self.add_module(of_mlp.name, mlp)
        outside_the_tree(self, attention=attention, mlp=mlp)
        if spec.shared_mlp is not None:
            shared = MLP(spec.shared_mlp, hidden, prefix=f"{prefix}.{spec.shared_mlp.name}")
            self.add_module(spec.shared_mlp.name, shared)
        norms: list[Norm | None] = []
        for norm in spec.norms:
            norms.append(None if norm is None else build_norm(norm, hidden))
            if norm is not None and norms[-1] is not None:
                add_part(self, norm.name, norms[-1])
        outside_the_tree(self, norms=tuple(norms))
        if spec.norm_beside is not None:
            self.add_module(spec.norm_beside.name, build_norm(spec.norm_beside, hidden))
            self._concatenate = concatenation()
        self._sum = stream_sum()
        self.compiled = CompiledPath(self)
        self.tap_before: Tap | None = None
        self.tap_after: Tap | None = None

    def forward(
        self,
        positions: ms.Tensor,
        x: ms.Tensor,
        residual: ms.Tensor | None = None,
        beside: ms.Tensor | None = None,
    ) -> tuple[ms.Tensor, ms.Tensor | None]:
        """Compute the layer on the residual stream, which is ``x``, or the sum of ``x`` and ``residual``.

        Args:
            positions: [T].
            x, residual: [T, hidden]; both may be overwritten.
            beside: [T, hidden], what attention reads in front of the stream where the spec says so.

        Returns:
            The stream after the layer, in the same form: with a residual where the layer carries it.
        """
        if self.tap_before is not None:
            self.tap_before(x, residual)
        after = self._run(positions, x, residual, beside)
        if self.tap_after is not None:
            self.tap_after(*after)
        return after

    def _run(
        self, positions: ms.Tensor, x: ms.Tensor, residual: ms.Tensor | None, beside: ms.Tensor | None
    ) -> tuple[ms.Tensor, ms.Tensor | None]:
        if residual is not None and not self.carries_residual:
            x, residual = self._sum(residual, x), None
        done = self.compiled(positions, x, residual, beside)
        if done is not None:
            return self._after_attention(*done) if self.has_experts else done
        before_attention, after_attention, before_mlp, _ = self.norms
        if residual is None:
            normed, stream = x if before_attention is None else before_attention(x), x
        else:
            normed, stream = before_attention(x, residual)
        if self.spec.norm_beside is not None:
            normed = self._concatenate(self._modules[self.spec.norm_beside.name](beside), normed)
        y = self.attention(positions, normed)
        if self.spec.parallel_residual:
            z = self.mlp(normed if before_mlp is None else before_mlp(stream))
            multiplier = self.spec.residual_multiplier
            return self._sum(self._sum(stream, y, multiplier), z, multiplier), None
        if self.spec.norms_sums:
            stream = after_attention(self._sum(stream, y, self.spec.residual_multiplier))
            return self._after_attention(stream, stream)
        if after_attention is not None:
            y = after_attention(y)
        if isinstance(before_mlp, RMSNorm) and self.spec.residual_multiplier == 1.0:
            normed, stream = before_mlp(y, stream)
        else:
            stream = self._sum(stream, y, self.spec.residual_multiplier)
            normed = stream if before_mlp is None else before_mlp(stream)
        return self._after_attention(normed, stream)

    def _after_attention(
        self, normed: ms.Tensor, stream: ms.Tensor | None
    ) -> tuple[ms.Tensor, ms.Tensor | None]:
        """Run the MLP on the normed stream: [T, hidden] each."""
        y = self.mlp(normed)
        if self.spec.shared_mlp is not None:
            to_torch(y).add_(to_torch(self._modules[self.spec.shared_mlp.name](normed)))
        after_mlp = self.norms[3]
        if self.spec.norms_sums:
            return after_mlp(self._sum(stream, y, self.spec.residual_multiplier)), None
        if after_mlp is not None:
            y = after_mlp(y)
        if self.carries_residual:
            return y, stream
        return self._sum(stream, y, self.spec.residual_multiplier), None
