"""Self-attention as a spec describes it, op by op."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mszoo.kernels import dispatch
from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.attention import Attention, BiasedEncoderAttention, EncoderAttention
from mszoo.layers.decoder.build import build_norm, build_norm_of_ranks, build_rotary
from mszoo.layers.decoder.projections import ordered_tensors, transposed_tensors
from mszoo.layers.decoder.spec import AttentionSpec, NormSpec
from mszoo.layers.linear import apply_linear, heads_on_this_rank, qkv_linear, row_linear
from mszoo.layers.model import Module, add_part, tensor_parallel_size
from mszoo.layers.norm import HeadNorm, Norm, QKNorm, RMSNorm
from mszoo.layers.rotary import RotaryEmbedding
from mszoo.layers.seam import cpu_backend
from mszoo.layers.weights import Expected, load_part_of_rank_along
from mszoo.registry.errors import RefusalError

import mindspore as ms


class SelfAttention(Module):
    """Fused projection, norms of queries and keys, rotation, vLLM's attention, output projection.

    Args:
        spec: what it is.
        hidden_size: width of its output, and of its input.
        prefix: its name, unique in the model.
        input_size: width of its input where that is another one.

    Raises:
        RefusalError: as :class:`mszoo.layers.Attention`; or heads can't be shared out to the ranks; or tokens are
            to see later ones where nothing attends so; or ranks are to norm all heads together otherwise than by
            the root of their mean square.
    """

    def __init__(
        self, spec: AttentionSpec, hidden_size: int, *, prefix: str, input_size: int | None = None
    ) -> None:
        super().__init__()
        self.spec = spec
        heads, kv_heads = heads_on_this_rank(spec.num_heads, spec.num_kv_heads)
        self.num_heads, self.num_kv_heads = heads, kv_heads
        qkv = qkv_linear(
            input_size or hidden_size,
            spec.head_size,
            spec.num_heads,
            spec.num_kv_heads,
            bias=spec.qkv_bias,
            prefix=f"{prefix}.{spec.qkv_name}",
        )
        add_part(self, spec.qkv_name, qkv)
        if spec.qk_norm is not None:
            self.add_module(spec.q_norm_name, self._build_qk_norm(spec.qk_norm, heads, spec.num_heads))
            self.add_module(spec.k_norm_name, self._build_qk_norm(spec.qk_norm, kv_heads, spec.num_kv_heads))
        self._norm_heads = self._norm_of_heads()
        self._by_mindspore = not dispatch.current().sums_by_torch
        self.rotary_emb: RotaryEmbedding | None = None
        if spec.rotary is not None:
            self.rotary_emb = build_rotary(spec.rotary, spec.head_size, heads, kv_heads)
        self.sinks: torch.nn.Parameter | None = None
        if spec.sinks:
            self.sinks = torch.nn.Parameter(torch.zeros(heads), requires_grad=False)
        self.attn = self._build_attention(f"{prefix}.attn")
        output = row_linear(
            spec.num_heads * spec.head_size, hidden_size, bias=spec.o_bias, prefix=f"{prefix}.{spec.o_name}"
        )
        add_part(self, spec.o_name, output)

    @property
    def qkv_projection(self) -> torch.nn.Module:
        """The projection to queries, keys and values, or what vLLM put in its place."""
        return self.get_submodule(self.spec.qkv_name)

    @property
    def output_projection(self) -> torch.nn.Module:
        """The output projection, or what vLLM put in its place."""
        return self.get_submodule(self.spec.o_name)

    @property
    def projections(self) -> tuple[torch.nn.Module, ...]:
        """Both projections in order."""
        return self.qkv_projection, self.output_projection

    @property
    def qk_norms(self) -> tuple[Norm, Norm] | None:
        """The norms of queries and of keys."""
        if self.spec.qk_norm is None:
            return None
        return getattr(self, self.spec.q_norm_name), getattr(self, self.spec.k_norm_name)

    def forward(self, positions: ms.Tensor, x: ms.Tensor) -> ms.Tensor:
        """[T], [T, input] -> [T, hidden]."""
        qkv = apply_linear(self.qkv_projection, x)
        late = self.spec.qk_norm_after_rotary
        if self._norm_heads is not None and not late:
            qkv = self._norm_heads(qkv)
        if self.spec.clip_qkv is not None:
            qkv = self._clip(qkv, self.spec.clip_qkv)
        if self.rotary_emb is not None:
            qkv = self.rotary_emb(positions, qkv)
        if self._norm_heads is not None and late:
            qkv = self._norm_heads(qkv)
        return apply_linear(self.output_projection, self.attn(qkv))

    def checkpoint_tensors(self, name: str) -> dict[str, Expected]:
        """See :class:`mszoo.layers.weights.HasOwnTensors`."""
        spec = self.spec
        table: dict[str, Expected] = {}
        if spec.sinks:
            table[f"{name}.sinks"] = Expected(
                f"{name}.sinks", None, (spec.num_heads,), load=load_part_of_rank_along(0)
            )
        if spec.qkv_layout is not None:
            table |= ordered_tensors(f"{name}.{spec.qkv_name}", self.qkv_projection, spec.qkv_layout)
        if spec.conv1d:
            if spec.qkv_layout is None:
                table |= transposed_tensors(f"{name}.{spec.qkv_name}", self.qkv_projection)
            table |= transposed_tensors(f"{name}.{spec.o_name}", self.output_projection)
        return table

    def _build_attention(self, prefix: str) -> Attention | EncoderAttention:
        spec = self.spec
        scale = spec.head_size**-0.5 if spec.scale is None else spec.scale
        if spec.is_causal:
            return Attention(
                self.num_heads,
                spec.head_size,
                scale,
                self.num_kv_heads,
                sliding_window=spec.sliding_window,
                softcap=spec.logits_soft_cap,
                sinks=self.sinks,
                prefix=prefix,
            )
        if cpu_backend() is None and spec.relative_bias:
            raise _looks_ahead("models whose scores have a bias then are served on a CPU alone")
        if spec.logits_soft_cap is not None:  # vLLM's CPU kernel is inexact with one then
            raise _looks_ahead(f"logits_soft_cap={spec.logits_soft_cap} isn't served with that")
        make = BiasedEncoderAttention if spec.relative_bias else EncoderAttention
        return make(
            self.num_heads,
            spec.head_size,
            scale,
            self.num_kv_heads,
            sliding_window=spec.sliding_window,
            prefix=prefix,
        )

    def _clip(self, qkv: ms.Tensor, bound: float) -> ms.Tensor:
        if self._by_mindspore:
            return ms.ops.clamp(qkv, -bound, bound)
        to_torch(qkv).clamp_(-bound, bound)
        return qkv

    def _build_qk_norm(self, norm: NormSpec, heads: int, of_all_ranks: int) -> Norm:
        size, weights = self.spec.head_size, self.spec.qk_norm_weights
        parts = of_all_ranks // heads
        copies = tensor_parallel_size() // parts
        if weights:
            listed = weights == "listed"
            return HeadNorm(heads, size, norm.eps, listed=listed, parts=parts, copies=copies)
        if not self.spec.qk_norm_spans_heads:
            return build_norm(norm, size)
        return build_norm_of_ranks(norm, heads * size, parts, copies)

    def _norm_of_heads(self) -> Callable[[ms.Tensor], ms.Tensor] | None:
        """Return what norms queries and keys inside ``qkv``."""
        norms = self.qk_norms
        if norms is None:
            return None
        q_norm, k_norm = norms
        each_head = not self.spec.qk_norm_spans_heads
        if each_head and isinstance(q_norm, RMSNorm) and isinstance(k_norm, RMSNorm):
            return QKNorm(q_norm, k_norm, self.num_heads, self.num_kv_heads)
        return self._norm_parts

    def _norm_parts(self, qkv: ms.Tensor) -> ms.Tensor:
        assert self.qk_norms is not None
        size = self.spec.head_size
        sizes = [self.num_heads * size, self.num_kv_heads * size, self.num_kv_heads * size]
        query, key, _ = to_torch(qkv).split(sizes, -1)
        for part, norm in zip((query, key), self.qk_norms, strict=True):
            rows = part.reshape(-1, norm.width).contiguous()
            part.copy_(to_torch(norm(to_mindspore(rows))).view(part.shape))
        return qkv


def _looks_ahead(why: str) -> RefusalError:
    return RefusalError(
        "config.json", f"its tokens see later ones, and {why}", "Serve the model with another implementation"
    )
