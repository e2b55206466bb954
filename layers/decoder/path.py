"""Which way decoder layers run: what the ways of running them as a whole have in common.

The ``cpu`` kernel set has a compiled layer (:mod:`mszoo.layers.decoder.compiled`), the ``mindspore`` set a graph of
all layers (:mod:`mszoo.layers.decoder.graph`). Both compute what :class:`mszoo.layers.decoder.DecoderLayer` does op
by op, with less interpretation between the kernels. Op by op serves wherever they can't: ops of suites, LoRA,
tensor parallelism, quantized weights, ``--enforce-eager``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mszoo.kernels import dispatch
from mszoo.layers.activation import Activation, GatedActivation
from mszoo.layers.attention import Attention, EncoderAttention
from mszoo.layers.decoder.spec import AttentionSpec, MLPSpec
from mszoo.layers.norm import GemmaRMSNorm, LayerNorm, RMSNorm
from mszoo.layers.rotary import RotaryEmbedding
from mszoo.layers.seam import (
    AttentionType,
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
    get_current_vllm_config,
    get_forward_context,
    init_logger,
)

if TYPE_CHECKING:
    from mszoo.layers.decoder.layer import DecoderLayer

logger = init_logger("vllm.mszoo.layers")

#: The ops of every decoder layer; norms, activations and the norm of heads differ.
_OPS = frozenset({"linear", "paged_attention"})
_OPS_OF_NORMS = {
    "rms_norm": frozenset({"rms_norm", "fused_add_rms_norm"}),
    "gemma_rms_norm": frozenset({"rms_norm"}),
    "layer_norm": frozenset({"layer_norm"}),
}
#: The classes of a layer's parts as mszoo builds them; a subclass may compute something else.
_OWN = (
    Activation,
    Attention,
    EncoderAttention,
    GatedActivation,
    GemmaRMSNorm,
    LayerNorm,
    RMSNorm,
    RotaryEmbedding,
)


def is_wanted(kernel_set: str) -> bool:
    """Return whether the model that is being built may run whole layers of this kernel set."""
    kernels, config = dispatch.current(), get_current_vllm_config()
    if kernels.base != kernel_set or kernels.device != "cpu" or config.model_config.enforce_eager:
        return False
    if config.kv_transfer_config is not None:
        logger.info_once("mszoo: decoder layers run op by op: a KV connector works between their parts")
        return False
    return True


def is_profiling() -> bool:
    """Return whether this is a step of vLLM's memory profiling, which has no KV cache."""
    return get_forward_context().attn_metadata is None


def tell(obstacle: str | None, how: str) -> bool:
    """Say once how layers run, and return whether they run so."""
    if obstacle is None:
        logger.info_once("mszoo: decoder layers run %s", how)
        return True
    logger.info_once("mszoo: decoder layers run op by op: %s", obstacle)
    return False


def obstacle(layer: DecoderLayer, kernels: dispatch.Kernels) -> str | None:
    """Return why a layer has to run op by op whatever the kernel set, or None."""
    of_suites = sorted(set(_ops(layer)) & kernels.from_suites.keys())
    if of_suites:
        return ", ".join(f"{op} is run by {kernels.ops[op].who}" for op in of_suites)
    return _replaced(layer)


def multiplied_otherwise(layer: DecoderLayer, method: type) -> str | None:
    """Return what multiplies in place of ``method``, or None."""
    for projection in projections(layer):
        if type(projection.quant_method) is not method:
            return f"{type(projection.quant_method).__name__} multiplies"
    return None


def projections(layer: DecoderLayer) -> tuple[Any, ...]:
    """Return a layer's linear layers in order: attention's, and of an MLP up (gate and up where gated) and down."""
    of_mlp = () if layer.has_experts else (layer.mlp.up_projection, layer.mlp.down_projection)
    return *layer.attention.projections, *of_mlp


def _ops(layer: DecoderLayer) -> Iterator[str]:
    yield from _OPS
    spec = layer.spec
    of_heads = spec.attention.qk_norm if isinstance(spec.attention, AttentionSpec) else None
    for norm in (*spec.norms, of_heads):
        if norm is not None:
            yield from _OPS_OF_NORMS[norm.kind]
    if of_heads is not None:
        yield "qk_norm"
    if spec.attention.rotary is not None:
        yield "rotary_embedding"
    if not layer.has_experts:
        yield layer.mlp.act_fn.op


def _replaced(layer: DecoderLayer) -> str | None:
    """Return what is not as mszoo built it, and has to be called as it is, or None."""
    mlp = layer.spec.mlp
    is_gated = not isinstance(mlp, MLPSpec) or mlp.gated
    up = MergedColumnParallelLinear if is_gated else ColumnParallelLinear
    attention = layer.attention
    is_plain = isinstance(layer.spec.attention, AttentionSpec)
    classes: tuple[type[Any], ...] = (QKVParallelLinear,)
    if not is_plain:
        queries = (ReplicatedLinear, ColumnParallelLinear) if attention.low_rank else (ColumnParallelLinear,)
        classes = (*queries, ReplicatedLinear)
    classes = (*classes, RowParallelLinear, up, RowParallelLinear)
    for projection, vllm_class in zip(projections(layer), classes, strict=False):
        if type(projection) is not vllm_class:
            return f"a {type(projection).__name__} is in place"
        if projection.tp_size > 1:
            return "tensor parallelism"
    # Latent attention is vLLM's layer, called as it is.
    inside = (*(attention.qk_norms or ()), attention.attn) if is_plain else attention.low_rank_norms
    beside = layer.spec.norm_beside
    norms = (*layer.norms, None if beside is None else layer.get_submodule(beside.name))
    parts = (*norms, *inside, attention.rotary_emb)
    for part in (*parts, None if layer.has_experts else layer.mlp.act_fn):
        if part is not None and type(part) not in _OWN:
            return f"a {type(part).__name__} is in place"
    return _attends_otherwise(attention.attn) if is_plain else None


def _attends_otherwise(attn: Attention | EncoderAttention) -> str | None:
    """Return what vLLM's attention does that a whole layer doesn't, or None."""
    if attn.attn_type == AttentionType.ENCODER_ONLY:
        return None  # nothing is cached
    if attn.attn_type != AttentionType.DECODER or attn.kv_sharing_target_layer_name is not None:
        return "the attention backend"
    if attn.kv_cache_dtype != "auto" or attn.kv_cache.dtype is not attn.dtype:
        return f"a KV cache of {attn.kv_cache_dtype}"
    return None
