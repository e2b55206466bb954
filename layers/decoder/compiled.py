"""A decoder layer of the ``cpu`` kernel set as one compiled call of vLLM's kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mszoo.kernels import compiled, dispatch
from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.decoder import path
from mszoo.layers.decoder.spec import AttentionSpec, DecoderLayerSpec
from mszoo.layers.methods import CpuLinearMethod
from mszoo.layers.norm import GemmaRMSNorm, LayerNorm, Norm
from mszoo.layers.seam import AttentionType, attention_context, cpu_backend

import mindspore as ms

if TYPE_CHECKING:
    from mszoo.layers.decoder.layer import DecoderLayer


class CompiledPath:
    """Decides once, at the first step, whether a layer can run in one call, and then does it.

    Args:
        layer: looked at in the first step only: until then vLLM may replace some of its parts (LoRA).
    """

    def __init__(self, layer: DecoderLayer) -> None:
        self._layer, self._kernels = layer, dispatch.current()
        self._wanted = path.is_wanted("cpu")
        self._compiled: CompiledLayer | None = None

    @property
    def runs(self) -> bool:
        """Whether the layer runs in one call."""
        return self._compiled is not None

    def stop(self) -> None:
        """Run the layer op by op from now on."""
        self._wanted, self._compiled = False, None

    def __call__(
        self, positions: ms.Tensor, x: ms.Tensor, residual: ms.Tensor | None
    ) -> tuple[ms.Tensor, ms.Tensor | None] | None:
        """Run the layer, or its part before the experts; see :meth:`mszoo.layers.decoder.DecoderLayer.forward`.

        Returns:
            None where the layer has to run op by op. Else what the layer returns; where it has experts, what
            these get, and the residual stream.
        """
        if not self._wanted or path.is_profiling():
            return None
        if self._compiled is None or self._compiled.outdated:
            obstacle = self._obstacle()
            self._wanted = path.tell(obstacle, "compiled")
            if obstacle is not None:
                return None
            self._compiled = CompiledLayer(self._layer)
        return self._compiled(positions, x, residual)

    def _obstacle(self) -> str | None:
        layer = self._layer
        return (
            unsupported(layer.spec)
            or path.obstacle(layer, self._kernels)
            or compiled.missing()
            or _not_packed(layer)
        )


def unsupported(spec: DecoderLayerSpec) -> str | None:
    """Return what of a spec the compiled layer doesn't do, by name, or None."""
    if not isinstance(spec.attention, AttentionSpec):
        return "latent attention"
    refused = {
        "qk_norm_weights": bool(spec.attention.qk_norm_weights),
        "relative_bias": spec.attention.relative_bias,
        "sinks": spec.attention.sinks,
        "norm_beside": spec.norm_beside is not None,
        "parallel_residual with experts": spec.has_experts and spec.parallel_residual,
    }
    return next((name for name, is_other in refused.items() if is_other), None)


def _not_packed(layer: DecoderLayer) -> str | None:
    backend = cpu_backend()
    attn = layer.attention.attn
    if backend is None or type(attn.impl) is not backend.CPUAttentionBackendImpl:
        return "the attention backend"
    if attn.attn_type == AttentionType.ENCODER_ONLY and not backend.attends_in_encoder_cache(attn.impl):
        return "the attention backend"
    reason = path.multiplied_otherwise(layer, CpuLinearMethod)
    packed = path.projections(layer)
    if reason is None and any(projection.quant_method.handler is None for projection in packed):
        return "torch multiplies"
    return reason


class CompiledLayer:
    """Runs a layer by kernels/csrc/decoder_layer.cpp.

    Args:
        layer: a layer that nothing hinders.
    """

    def __init__(self, layer: DecoderLayer) -> None:
        spec, attention = layer.spec, layer.attention
        of_attention = attention.spec
        assert isinstance(of_attention, AttentionSpec)
        attn, impl = attention.attn, attention.attn.impl
        backend = cpu_backend()
        assert backend is not None  # else there was an obstacle
        self._isa_of = backend.attention_isa
        window = backend.sliding_window_of(impl)
        tensors: dict[str, torch.Tensor] = {}
        integers: dict[str, int] = {
            "num_heads": attn.num_heads,
            "num_kv_heads": attn.num_kv_heads,
            "head_size": attn.head_size,
            "sliding_window": -1 if window is None else window,
            "is_neox_style": of_attention.rotary is None or of_attention.rotary.is_neox_style,
            "qk_norm_after_rotary": of_attention.qk_norm_after_rotary,
            "parallel_residual": spec.parallel_residual,
            "norms_sums": spec.norms_sums,
            "is_causal": of_attention.is_causal,
        }
        floats: dict[str, float] = {
            "scale": impl.scale,
            "logits_soft_cap": float(impl.logits_soft_cap),
            "residual_multiplier": spec.residual_multiplier,
            "clip_qkv": of_attention.clip_qkv or 0.0,
        }
        words: dict[str, str] = {"activation": "" if layer.has_experts else layer.mlp.act_fn.op}
        norms = dict(zip(_NORMS, (*layer.norms, *(attention.qk_norms or ())), strict=False))
        for name, norm in norms.items():
            if norm is not None:
                words[name], weight, bias = _norm(norm)
                floats[f"{name}.eps"] = norm.eps
                tensors |= {
                    f"{name}.{leaf}": tensor
                    for leaf, tensor in (("weight", weight), ("bias", bias))
                    if tensor is not None
                }
        linear: list[Any] = list(path.projections(layer))
        self._packed = [(projection.quant_method, projection.quant_method.handler) for projection in linear]
        for name, projection, (_, handler) in zip(_PROJECTIONS, linear, self._packed, strict=False):
            tensors[f"{name}.handler"], integers[f"{name}.width"] = handler.handler_tensor, handler.n
            if projection.bias is not None:
                tensors[f"{name}.bias"] = projection.bias.data
        if attention.rotary_emb is not None:
            tensors["cos_sin_cache"] = attention.rotary_emb.cos_sin_cache
        self._attention = attn.layer_name
        self._has_experts, self._carries = layer.has_experts, layer.carries_residual
        self._caches = of_attention.is_causal
        self._norms_before_mlp = spec.norm_before_mlp is not None
        self._run = compiled.decoder_layer(tensors, integers, floats, words).run

    @property
    def outdated(self) -> bool:
        """Whether a weight reload packed the weights anew, and freed what this layer points to."""
        for method, packed in self._packed:  # noqa: SIM110  any() with a generator takes three times as long
            if method.handler is not packed:
                return True
        return False

    def __call__(
        self, positions: ms.Tensor, x: ms.Tensor, residual: ms.Tensor | None
    ) -> tuple[ms.Tensor, ms.Tensor | None]:
        """Run the layer; see :meth:`CompiledPath.__call__`."""
        metadata, attn, kv_cache, slot_mapping = attention_context(self._attention)
        if not self._caches:
            kv_cache, slot_mapping = metadata.encoder_cache, metadata.slot_mapping
        hidden = to_torch(x)
        stream = None
        # What experts get lies beside the stream.
        if self._carries or self._has_experts:
            stream = torch.empty_like(hidden) if residual is None else to_torch(residual)
        self._run(
            hidden,
            stream,
            residual is None,
            to_torch(positions),
            kv_cache,
            slot_mapping,
            metadata.query_start_loc,
            metadata.seq_lens,
            metadata.block_table,
            metadata.scheduler_metadata,
            metadata.num_actual_tokens,
            self._isa_of(metadata, attn),
        )
        if stream is None:
            return x, None
        stream_view = to_mindspore(stream) if residual is None else residual
        if self._has_experts and not self._norms_before_mlp:
            return stream_view, stream_view
        return x, stream_view


#: What the compiled layer calls its norms and projections, in the order of a layer's.
_NORMS = (
    "norm_before_attention",
    "norm_after_attention",
    "norm_before_mlp",
    "norm_after_mlp",
    "q_norm",
    "k_norm",
)
_PROJECTIONS = ("qkv_proj", "o_proj", "up_proj", "down_proj")


def _norm(norm: Norm) -> tuple[str, torch.Tensor | None, torch.Tensor | None]:
    """Return kind, weight and bias of a norm as the compiled layer takes them."""
    if isinstance(norm, LayerNorm):
        return "layer_norm", norm.scale(), norm.bias
    if isinstance(norm, GemmaRMSNorm):
        return "gemma_rms_norm", norm.weight.data.float() + 1.0, None
    return "rms_norm", norm.weight.data, None
