"""The parts of a dense decoder layer, for what runs the layer as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from vllm.model_executor.layers.linear import (
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
)
from vllm.v1.attention.backend import AttentionType

from mszoo.layers.activation import GatedActivation
from mszoo.layers.attention import Attention
from mszoo.layers.norm import RMSNorm
from mszoo.layers.rotary import RotaryEmbedding

_PROJECTIONS = (QKVParallelLinear, RowParallelLinear, MergedColumnParallelLinear, RowParallelLinear)

#: The ops of every dense decoder layer; the activation and the norm of heads differ.
_OPS = frozenset({"rms_norm", "fused_add_rms_norm", "linear", "rotary_embedding", "paged_attention"})


@dataclass(frozen=True)
class Parts:
    """The parts of a dense decoder layer, in the order in which they run."""

    input_norm: RMSNorm
    qkv_proj: torch.nn.Module
    head_norms: tuple[RMSNorm, RMSNorm] | None
    rotary_emb: RotaryEmbedding
    attn: Attention
    o_proj: torch.nn.Module
    post_norm: RMSNorm
    gate_up_proj: torch.nn.Module
    activation: GatedActivation
    down_proj: torch.nn.Module

    @property
    def projections(self) -> tuple[torch.nn.Module, ...]:
        """The linear layers, in order."""
        return self.qkv_proj, self.o_proj, self.gate_up_proj, self.down_proj

    @property
    def ops(self) -> frozenset[str]:
        """The ops that the layer consists of."""
        return _OPS | {self.activation.op} | ({"qk_norm"} if self.head_norms else set())

    def replaced(self) -> str | None:
        """Return what is not as mszoo.layers built it, and has to be called as it is, or None."""
        for layer, vllm_layer in zip(self.projections, _PROJECTIONS, strict=True):
            if type(layer) is not vllm_layer:
                return f"a {type(layer).__name__} is in place"
            if layer.tp_size > 1:
                return "tensor parallelism"
        norms = (self.input_norm, self.post_norm, *(self.head_norms or ()))
        own = ((RMSNorm, norms), (RotaryEmbedding, (self.rotary_emb,)), (Attention, (self.attn,)))
        for kind, layers in (*own, (GatedActivation, (self.activation,))):
            for layer in layers:
                if type(layer) is not kind:  # a subclass may compute something else
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
