"""Decides whether a decoder layer of the ``cpu`` kernel set runs as compiled calls of vLLM's kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mszoo.kernels import compiled, dispatch
from mszoo.layers.decoder import path
from mszoo.layers.decoder.compiled_latent import CompiledLatentLayer
from mszoo.layers.decoder.compiled_layer import CompiledLayer
from mszoo.layers.decoder.spec import AttentionSpec, DecoderLayerSpec, LatentAttentionSpec
from mszoo.layers.methods import CpuLinearMethod
from mszoo.layers.seam import AttentionType, cpu_backend

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
        self._compiled: CompiledLayer | CompiledLatentLayer | None = None

    @property
    def runs(self) -> bool:
        """Whether the layer runs in one call."""
        return self._compiled is not None

    def stop(self) -> None:
        """Run the layer, and its experts, op by op from now on."""
        self._wanted, self._compiled = False, None
        if self._layer.has_experts:
            self._layer.mlp.compiled.stop()

    def __call__(
        self, positions: ms.Tensor, x: ms.Tensor, residual: ms.Tensor | None, beside: ms.Tensor | None = None
    ) -> tuple[ms.Tensor, ms.Tensor | None] | None:
        """Run the layer, or its part before the experts; see :meth:`mszoo.layers.decoder.DecoderLayer.forward`.

        Returns:
            None where the layer has to run op by op. Else what the layer returns; where it has experts, what
            these get, and the residual stream.
        """
        if not self._wanted or path.is_profiling():
            return None
        if self._compiled is None or self._compiled.parts.outdated:
            obstacle = self._obstacle()
            self._wanted = path.tell(obstacle, "compiled")
            if obstacle is not None:
                return None
            latent = isinstance(self._layer.spec.attention, LatentAttentionSpec)
            self._compiled = (CompiledLatentLayer if latent else CompiledLayer)(self._layer)
        return self._compiled(positions, x, residual, beside)

    def _obstacle(self) -> str | None:
        layer = self._layer
        return (
            unsupported(layer.spec)
            or path.obstacle(layer, self._kernels)
            or compiled.missing()
            or _attends_otherwise(layer)
            or _not_packed(layer)
        )


def unsupported(spec: DecoderLayerSpec) -> str | None:
    """Return what of a spec the compiled layer doesn't do, by name, or None."""
    if not isinstance(spec.attention, AttentionSpec):
        return _unsupported_with_latent_attention(spec)
    refused = {
        "qk_norm_weights": bool(spec.attention.qk_norm_weights),
        "relative_bias": spec.attention.relative_bias,
        "sinks": spec.attention.sinks,
        "norm_beside": spec.norm_beside is not None and spec.norm_beside.kind != "rms_norm",
        "parallel_residual with experts": spec.has_experts and spec.parallel_residual,
    }
    return next((name for name, is_other in refused.items() if is_other), None)


def _unsupported_with_latent_attention(spec: DecoderLayerSpec) -> str | None:
    if not spec.carries_residual:
        return "latent attention in a layer whose residual stream is not carried"
    if spec.norm_after_attention or spec.norm_after_mlp or spec.norms_sums or spec.norm_beside:
        return "latent attention with norms other than two ahead of the halves"
    if spec.norm_before_mlp is None or spec.norm_before_mlp.kind != "rms_norm":
        return "latent attention without rms_norm before the MLP"
    return None


def _attends_otherwise(layer: DecoderLayer) -> str | None:
    backend, attention = cpu_backend(), layer.attention
    if isinstance(layer.spec.attention, LatentAttentionSpec):
        return None if attention.has_latent_cache else "latent attention on keys and values of each head"
    impl, kind = attention.attn.impl, attention.attn.attn_type
    attends = backend is not None and type(impl) is backend.CPUAttentionBackendImpl
    if backend is not None and attends and kind == AttentionType.ENCODER_ONLY:
        attends = backend.attends_in_encoder_cache(impl)
    return None if attends else "the attention backend"


def _not_packed(layer: DecoderLayer) -> str | None:
    reason = path.multiplied_otherwise(layer, CpuLinearMethod)
    packed = path.projections(layer)
    if reason is None and any(projection.quant_method.handler is None for projection in packed):
        return "torch multiplies"
    return reason
