"""A decoder layer of the ``cpu`` kernel set as one compiled call: vLLM's kernels, in the plain path's order."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from vllm.model_executor.layers.attention.attention import get_attention_context
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl

import mindspore as ms  # isort: skip
from mszoo.kernels import compiled  # isort: skip
from mszoo.kernels.exchange import to_mindspore, to_torch  # isort: skip
from mszoo.layers.methods import CpuLinearMethod  # isort: skip
from mszoo.layers.norm import GemmaRMSNorm, Norm, RMSNorm  # isort: skip
from mszoo.layers.parts import Parts  # isort: skip


#: Activations of an MLP without a gate.
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2")


class CompiledLayer:
    """Runs the layer by kernels/csrc/decoder_layer.cpp.

    Args:
        parts: for which :meth:`obstacle` found none.
    """

    def __init__(self, parts: Parts) -> None:
        attn, impl = parts.attn, parts.attn.impl
        layers: list[Any] = list(parts.projections)
        norms = [_Norm.of(norm) for norm in parts.norms]
        self._packed = [(layer.quant_method, layer.quant_method.handler) for layer in layers]
        self._attention = attn.layer_name
        self._table = None if parts.rotary_emb is None else parts.rotary_emb.cos_sin_cache
        self._run = compiled.decoder_layer(
            [norm.kind for norm in norms],
            [norm.weight for norm in norms],
            [norm.bias for norm in norms],
            [norm.eps for norm in norms],
            [handler.handler_tensor for _, handler in self._packed],
            [None if layer.bias is None else layer.bias.data for layer in layers],
            [handler.n for _, handler in self._packed],
            attn.num_heads,
            attn.num_kv_heads,
            attn.head_size,
            impl.scale,
            impl.sliding_window,
            float(impl.logits_soft_cap),
            parts.op,
            parts.rotation,
            parts.norms_late,
            parts.parallel,
            parts.multiplier,
        ).run

    @staticmethod
    def obstacle(parts: Parts) -> str | None:
        """Return why the compiled layer can't stand for these parts, or None."""
        if compiled.missing() is not None:
            return compiled.missing()
        if type(parts.attn.impl) is not CPUAttentionBackendImpl:
            return "the attention backend"
        if parts.has_mlp and isinstance(parts.activation, str) and parts.activation not in ACTIVATIONS:
            return f"the activation {parts.activation}"
        reason = parts.multiplied_otherwise(CpuLinearMethod)
        if reason is None and any(layer.quant_method.handler is None for layer in parts.projections):
            return "torch multiplies"
        return reason

    @property
    def outdated(self) -> bool:
        """Whether a weight reload packed the weights anew, and freed what this layer points to."""
        return any(method.handler is not packed for method, packed in self._packed)

    def __call__(
        self,
        positions: ms.Tensor | None,
        x: ms.Tensor,
        residual: ms.Tensor | None,
        carries: bool,
        table: torch.Tensor | None,
    ) -> tuple[ms.Tensor, ms.Tensor | None]:
        """Run the layer; see :class:`mszoo.layers.fused.FusedDecoderLayer`."""
        metadata, attn, kv_cache, slot_mapping = get_attention_context(self._attention)
        hidden = to_torch(x)
        stream = None
        if carries:
            stream = torch.empty_like(hidden) if residual is None else to_torch(residual)
        self._run(
            hidden,
            stream,
            residual is None,
            None if positions is None else to_torch(positions),
            self._table if table is None else table,
            kv_cache,
            slot_mapping,
            metadata.query_start_loc,
            metadata.seq_lens,
            metadata.block_table,
            metadata.scheduler_metadata,
            metadata.num_actual_tokens,
            attn.isa,
        )
        return x, to_mindspore(stream) if residual is None and stream is not None else residual


class _Norm(NamedTuple):
    """A norm as decoder_layer.cpp takes it."""

    kind: str = ""
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    eps: float = 0.0

    @classmethod
    def of(cls, norm: Norm | None) -> _Norm:
        if norm is None:
            return cls()
        if isinstance(norm, RMSNorm):
            return cls("rms", norm.weight.data, None, norm.eps)
        if isinstance(norm, GemmaRMSNorm):
            return cls("float_rms", norm.weight.data.float() + 1.0, None, norm.eps)
        return cls("layer", norm.scale(), norm.bias, norm.eps)
