"""The parts of a decoder layer, for what runs the layer as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
)
from vllm.v1.attention.backend import AttentionType

from mszoo.kernels.spec import SPECS
from mszoo.layers.activation import GatedActivation
from mszoo.layers.attention import Attention
from mszoo.layers.norm import GemmaRMSNorm, LayerNorm, Norm, RMSNorm
from mszoo.layers.rotary import InterleavedRotaryEmbedding, RotaryEmbedding

#: The ops of every decoder layer; the activation and the norm of heads differ.
_OPS = frozenset({"rms_norm", "fused_add_rms_norm", "linear", "rotary_embedding", "paged_attention"})
_NORMS = (RMSNorm, GemmaRMSNorm, LayerNorm)


@dataclass(frozen=True)
class Parts:
    """The parts of a decoder layer.

    Attributes:
        before_attention, after_attention, before_mlp, after_mlp: norms; None where there is none.
        qkv_proj, o_proj, up_proj, down_proj: projections, of vLLM's classes. A gated MLP has gate and up in one.
            Without up and down the layer is whole up to its MLP, which is another's (experts).
        head_norms: of queries and keys: of each head, or of all together, as their width says.
        attn: the attention.
        activation: a gated one, or "silu", "gelu", "gelu_tanh", "relu" or "relu2" for an MLP without a gate.
        rotary_emb: turns queries and keys; None where the table is given at each step.
        rotation: "halves", "pairs", or "" where nothing turns.
        norms_late: queries and keys are normed after they turned.
        parallel: attention and MLP see the same stream, normed once, or for the MLP by ``before_mlp``.
        multiplier: of what attention and MLP add to the stream.
    """

    before_attention: Norm | None
    after_attention: Norm | None
    before_mlp: Norm | None
    after_mlp: Norm | None
    qkv_proj: torch.nn.Module
    head_norms: tuple[Norm, Norm] | None
    attn: Attention
    o_proj: torch.nn.Module
    up_proj: torch.nn.Module | None = None
    activation: GatedActivation | str = ""
    down_proj: torch.nn.Module | None = None
    rotary_emb: RotaryEmbedding | None = None
    rotation: str = "halves"
    norms_late: bool = False
    parallel: bool = False
    multiplier: float = 1.0

    @property
    def has_mlp(self) -> bool:
        """Whether the MLP is one of the parts."""
        return self.up_proj is not None

    @property
    def projections(self) -> tuple[torch.nn.Module, ...]:
        """The linear layers, in order."""
        mlp = () if self.up_proj is None or self.down_proj is None else (self.up_proj, self.down_proj)
        return self.qkv_proj, self.o_proj, *mlp

    @property
    def norms(self) -> tuple[Norm | None, ...]:
        """The norms, in order, those of queries and keys last."""
        of_heads = self.head_norms or (None, None)
        return self.before_attention, self.after_attention, self.before_mlp, self.after_mlp, *of_heads

    @property
    def op(self) -> str:
        """The activation's op; or its name, without a gate; or nothing, without an MLP."""
        return self.activation if isinstance(self.activation, str) else self.activation.op

    @property
    def ops(self) -> frozenset[str]:
        """The ops that the layer consists of."""
        return _OPS | ({self.op} & SPECS.keys()) | ({"qk_norm"} if self.head_norms else set())

    def replaced(self) -> str | None:
        """Return what is not as mszoo.layers built it, and has to be called as it is, or None."""
        up = ColumnParallelLinear if isinstance(self.activation, str) else MergedColumnParallelLinear
        classes = (QKVParallelLinear, RowParallelLinear, up, RowParallelLinear)
        for layer, vllm_layer in zip(self.projections, classes, strict=False):
            if type(layer) is not vllm_layer:
                return f"a {type(layer).__name__} is in place"
            if layer.tp_size > 1:
                return "tensor parallelism"
        rotary = (RotaryEmbedding, InterleavedRotaryEmbedding)
        activation = () if isinstance(self.activation, str) else (self.activation,)
        own: tuple[tuple[tuple[type, ...], tuple[object, ...]], ...] = (
            (_NORMS, self.norms),
            (rotary, (self.rotary_emb,)),
            ((Attention,), (self.attn,)),
            ((GatedActivation,), activation),
        )
        for kinds, layers in own:
            for layer in layers:
                if layer is not None and type(layer) not in kinds:  # a subclass may compute something else
                    return f"a {type(layer).__name__} is in place"
        attn = self.attn
        if attn.attn_type != AttentionType.DECODER or attn.kv_sharing_target_layer_name is not None:
            return "the attention backend"
        if attn.kv_cache_dtype != "auto" or attn.kv_cache.dtype is not attn.dtype:
            return f"a KV cache of {attn.kv_cache_dtype}"
        return None

    def multiplied_otherwise(self, method: type) -> str | None:
        """Return what multiplies in place of ``method``, or None."""
        for layer in self.projections:
            if type(layer.quant_method) is not method:
                return f"{type(layer.quant_method).__name__} multiplies"
        return None
