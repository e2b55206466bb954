"""The compiled decoder layer: one call per layer and step, where nothing needs the layer's parts.

It runs the same vLLM kernels, in the same order, as the layer's plain path, without the interpreter between
them. The plain path serves wherever this one can't: other kernel sets, LoRA, tensor parallelism, quantized
weights, ``--enforce-eager``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.forward_context import get_forward_context
from vllm.logger import init_logger
from vllm.model_executor.layers.attention.attention import get_attention_context
from vllm.model_executor.layers.linear import (
    LinearBase,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
)
from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl

import mindspore as ms  # isort: skip
from mszoo.kernels import dispatch  # isort: skip
from mszoo.kernels.exchange import to_mindspore, to_torch  # isort: skip
from mszoo.layers.activation import GatedActivation  # isort: skip
from mszoo.layers.attention import Attention  # isort: skip
from mszoo.layers.methods import CpuLinearMethod  # isort: skip
from mszoo.layers.norm import RMSNorm  # isort: skip
from mszoo.layers.rotary import RotaryEmbedding  # isort: skip

logger = init_logger("vllm.mszoo.layers")

_VLLM_LAYERS = (QKVParallelLinear, RowParallelLinear, MergedColumnParallelLinear, RowParallelLinear)


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


class FusedDecoderLayer:
    """Decides once, at the first step, whether the compiled layer can run, and then runs it.

    Args:
        parts: gives the layer's parts. Called at the first step: until then vLLM may replace some (LoRA).
    """

    def __init__(self, parts: Callable[[], Parts]) -> None:
        self._parts = parts
        self._wanted = (
            dispatch.current().set_of("linear") == "cpu"
            and not get_current_vllm_config().model_config.enforce_eager
        )
        self._compiled: Any = None
        self._layer_name = ""
        self._packed: list[tuple[CpuLinearMethod, Any]] = []

    @property
    def runs_compiled(self) -> bool:
        """Whether the compiled layer has taken over."""
        return self._compiled is not None

    def __call__(
        self, positions: ms.Tensor, x: ms.Tensor, residual: ms.Tensor | None
    ) -> tuple[ms.Tensor, ms.Tensor] | None:
        """Run the layer: see :meth:`mszoo.models.decoder.DecoderLayer.forward`.

        Returns:
            None where the plain path has to run. ``x`` and ``residual`` are overwritten otherwise.
        """
        if not self._wanted:
            return None
        if get_forward_context().attn_metadata is None:  # vLLM's memory profiling
            return None
        # A weight reload packs the weights anew and frees what the compiled layer points to.
        if self._compiled is None or any(method.handler is not packed for method, packed in self._packed):
            parts = self._parts()
            reason = _obstacle(parts)
            if reason is not None:
                self._wanted = False
                logger.info_once("mszoo: decoder layers run op by op: %s", reason)
                return None
            logger.info_once("mszoo: decoder layers run compiled")
            self._packed = [(layer.quant_method, layer.quant_method.handler) for layer in parts.projections]
            self._compiled, self._layer_name = _compile(parts), parts.attn.layer_name
        metadata, attn, kv_cache, slot_mapping = get_attention_context(self._layer_name)
        first = residual is None
        hidden = to_torch(x)
        stream = torch.empty_like(hidden) if first else to_torch(residual)
        self._compiled.run(
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


def _obstacle(parts: Parts) -> str | None:
    """Return why the compiled layer can't stand for these parts, or None."""
    from mszoo.kernels import compiled

    if compiled.missing() is not None:
        return compiled.missing()
    for layer, vllm_layer in zip(parts.projections, _VLLM_LAYERS, strict=True):
        reason = _projection_obstacle(layer, vllm_layer)
        if reason is not None:
            return reason
    attn = parts.attn
    if (
        attn.attn_type != AttentionType.DECODER
        or type(attn.impl) is not CPUAttentionBackendImpl
        or attn.kv_sharing_target_layer_name is not None
    ):
        return "the attention backend"
    if attn.kv_cache_dtype != "auto" or attn.kv_cache.dtype is not attn.dtype:
        return f"a KV cache of {attn.kv_cache_dtype}"
    return None


def _projection_obstacle(layer: torch.nn.Module, vllm_layer: type[LinearBase]) -> str | None:
    if type(layer) is not vllm_layer:
        return f"a {type(layer).__name__} is in place"
    if layer.tp_size > 1:
        return "tensor parallelism"
    method = layer.quant_method
    if not isinstance(method, CpuLinearMethod) or method.handler is None:
        return f"{type(method).__name__} multiplies"
    return None


def _compile(parts: Parts) -> Any:
    from mszoo.kernels import compiled

    attn, impl = parts.attn, parts.attn.impl
    norms = [parts.input_norm, parts.post_norm, *(parts.head_norms or ())]
    projections: list[LinearBase] = list(parts.projections)
    return compiled.decoder_layer(
        [norm.weight.data for norm in norms],
        parts.input_norm.eps,
        [layer.quant_method.handler.handler_tensor for layer in projections],
        [None if layer.bias is None else layer.bias.data for layer in projections],
        [layer.quant_method.handler.n for layer in projections],
        parts.rotary_emb.cos_sin_cache,
        attn.num_heads,
        attn.num_kv_heads,
        attn.head_size,
        impl.scale,
        impl.sliding_window,
        float(impl.logits_soft_cap),
        parts.activation.op,
    )
