"""A decoder layer of the ``cpu`` kernel set as one compiled call: vLLM's kernels, in the plain path's order."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from vllm.model_executor.layers.attention.attention import get_attention_context
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl

import mindspore as ms  # isort: skip
from mszoo.kernels import compiled  # isort: skip
from mszoo.kernels.exchange import to_mindspore, to_torch  # isort: skip
from mszoo.layers.methods import CpuLinearMethod  # isort: skip
from mszoo.layers.parts import Parts  # isort: skip


class CompiledLayer:
    """Runs the layer by kernels/csrc/decoder_layer.cpp.

    Args:
        parts: for which :meth:`obstacle` found none.
    """

    description: ClassVar[str] = "compiled"

    def __init__(self, parts: Parts) -> None:
        attn, impl = parts.attn, parts.attn.impl
        norms = [parts.input_norm, parts.post_norm, *(parts.head_norms or ())]
        layers: list[Any] = list(parts.projections)
        self._packed = [(layer.quant_method, layer.quant_method.handler) for layer in layers]
        self._attention = attn.layer_name
        self._run = compiled.decoder_layer(
            [norm.weight.data for norm in norms],
            parts.input_norm.eps,
            [handler.handler_tensor for _, handler in self._packed],
            [None if layer.bias is None else layer.bias.data for layer in layers],
            [handler.n for _, handler in self._packed],
            parts.rotary_emb.cos_sin_cache,
            attn.num_heads,
            attn.num_kv_heads,
            attn.head_size,
            impl.scale,
            impl.sliding_window,
            float(impl.logits_soft_cap),
            parts.activation.op,
        ).run

    @staticmethod
    def obstacle(parts: Parts) -> str | None:
        """Return why the compiled layer can't stand for these parts, or None."""
        if compiled.missing() is not None:
            return compiled.missing()
        if type(parts.attn.impl) is not CPUAttentionBackendImpl:
            return "the attention backend"
        reason = parts.multiplied_otherwise(CpuLinearMethod)
        if reason is None and any(layer.quant_method.handler is None for layer in parts.projections):
            return "torch multiplies"
        return reason

    @property
    def outdated(self) -> bool:
        """Whether a weight reload packed the weights anew, and freed what this layer points to."""
        return any(method.handler is not packed for method, packed in self._packed)

    def __call__(
        self, positions: ms.Tensor, x: ms.Tensor, residual: ms.Tensor | None
    ) -> tuple[ms.Tensor, ms.Tensor]:
        """Run the layer; ``x`` and ``residual`` are overwritten."""
        metadata, attn, kv_cache, slot_mapping = get_attention_context(self._attention)
        first = residual is None
        hidden = to_torch(x)
        stream = torch.empty_like(hidden) if first else to_torch(residual)
        self._run(
            hidden,
            stream,
            first,
            to_torch(positions),
            kv_cache,
            slot_mapping,
            metadata.query_start_loc,
            metadata.seq_lens,
            metadata.block_table,
            metadata.scheduler_metadata,
            metadata.num_actual_tokens,
            attn.isa,
        )
        return x, to_mindspore(stream) if first else residual
