"""Every name of vLLM that mszoo's layers lean on, whatever the device.

Nobody else in this room imports vllm, but :mod:`mszoo.layers.seam_cpu`, which has what is of its CPU backend. Where
versions of vLLM differ, the difference is asked here, by what the installed one has, and the layers see one thing.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, NamedTuple

import torch

from vllm.config import CompilationConfig, ModelConfig, get_current_vllm_config, set_current_vllm_config
from vllm.distributed import (
    get_pp_group,
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
    tensor_model_parallel_all_reduce,
)
from vllm.distributed.utils import get_pp_indices
from vllm.forward_context import ForwardContext, get_forward_context
from vllm.logger import init_logger
from vllm.model_executor.layers.attention import Attention as VllmAttention
from vllm.model_executor.layers.attention.attention import get_attention_context
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    LinearBase,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
    UnquantizedLinearMethod,
    register_weight_loader_v2_supported_method,
)
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    UnquantizedEmbeddingMethod,
    VocabParallelEmbedding,
)
from vllm.model_executor.model_loader.weight_utils import default_weight_loader
from vllm.platforms import current_platform
from vllm.v1.attention.backend import AttentionType

from mszoo.layers.lacking import lacking

# One kind of model needs each of these; a vLLM without it serves the others.
try:
    from vllm.model_executor.layers.attention import EncoderOnlyAttention
except ImportError:
    EncoderOnlyAttention = lacking("EncoderOnlyAttention", "encoders")
try:
    from vllm.model_executor.layers.attention import MLAAttention
except ImportError:
    MLAAttention = lacking("MLAAttention", "models with latent attention")
try:
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
except ImportError:
    UnquantizedFusedMoEMethod = lacking("UnquantizedFusedMoEMethod", "models with experts")
try:  # a factory of the layer, and apart from it the module that owns the experts' weights
    from vllm.model_executor.layers.fused_moe.layer import FusedMoEFactory
    from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
except ImportError:
    try:  # one class is both (vLLM 0.23)
        from vllm.model_executor.layers.fused_moe.layer import FusedMoE as FusedMoEFactory
        from vllm.model_executor.layers.fused_moe.layer import FusedMoE as RoutedExperts
    except ImportError:
        FusedMoEFactory = RoutedExperts = lacking("FusedMoEFactory", "models with experts")

__all__ = [
    "AttentionContext",
    "AttentionType",
    "ColumnParallelLinear",
    "CompilationConfig",
    "EncoderOnlyAttention",
    "ForwardContext",
    "FusedMoEFactory",
    "LinearBase",
    "LogitsProcessor",
    "MLAAttention",
    "MergedColumnParallelLinear",
    "ModelConfig",
    "ParallelLMHead",
    "QKVParallelLinear",
    "QuantizationConfig",
    "QuantizeMethodBase",
    "ReplicatedLinear",
    "RoutedExperts",
    "RowParallelLinear",
    "UnquantizedEmbeddingMethod",
    "UnquantizedFusedMoEMethod",
    "UnquantizedLinearMethod",
    "VllmAttention",
    "VocabParallelEmbedding",
    "attention_context",
    "cpu_backend",
    "current_platform",
    "default_weight_loader",
    "experts_context",
    "get_current_vllm_config",
    "get_forward_context",
    "get_pp_group",
    "get_pp_indices",
    "get_tensor_model_parallel_rank",
    "get_tensor_model_parallel_world_size",
    "init_logger",
    "names_of_experts",
    "register_weight_loader_v2_supported_method",
    "routed_experts_of",
    "routing_function",
    "tensor_model_parallel_all_reduce",
    "without_lora",
]


class AttentionContext(NamedTuple):
    """What vLLM has for one attention layer in the step that it is running.

    Attributes:
        metadata: of the attention backend; None while vLLM profiles memory.
        layer: vLLM's attention layer.
        kv_cache: its part of the cache.
        slot_mapping: where each token's key and value go, [T].
    """

    metadata: Any
    layer: Any
    kv_cache: torch.Tensor
    slot_mapping: torch.Tensor


def attention_context(layer_name: str) -> AttentionContext:
    """Return what vLLM has for this attention layer in the current step."""
    return AttentionContext(*get_attention_context(layer_name))


@functools.cache
def cpu_backend() -> ModuleType | None:
    """Return :mod:`mszoo.layers.seam_cpu` where vLLM's platform is a CPU, or None."""
    if not current_platform.is_cpu():
        return None
    from mszoo.layers import seam_cpu

    return seam_cpu


def experts_context(config: Any) -> Callable[[], AbstractContextManager[None]]:
    """Return what gives the context in which vLLM's fused experts are called.

    Where one class is layer and weights (vLLM 0.23), its torch path makes an activation layer at each call, which
    asks for vLLM's config.

    Args:
        config: vLLM's, of the model that is being built.
    """
    if FusedMoEFactory is RoutedExperts:
        return functools.partial(set_current_vllm_config, config)
    return nullcontext


def without_lora(config: Any) -> AbstractContextManager[None]:
    """Return the context in which vLLM makes the layer of experts that it makes where there are no adapters.

    Where there are it takes the kernel that has LoRA, which is Triton's.

    Args:
        config: vLLM's, of the model that is being built.
    """
    plain = copy.copy(config)
    plain.lora_config = None
    context: AbstractContextManager[None] = set_current_vllm_config(plain)
    return context


def routing_function(route: Callable[..., Any]) -> Callable[..., Any]:
    """Return a router as vLLM's fused experts call it.

    Args:
        route: [T, hidden] -> weights [T, k] float32, experts [T, k]. vLLM makes int32 of these, as its kernels read
            them; where one class is layer and weights (vLLM 0.23), it takes them as they come.
    """
    if FusedMoEFactory is not RoutedExperts:
        return lambda hidden_states, **_: route(hidden_states)

    def as_int32(hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        weights, chosen = route(hidden_states)
        return weights, chosen.int()

    return as_int32


def names_of_experts(names: tuple[str, str, str]) -> dict[str, tuple[str, str, str]]:
    """Return the option of vLLM's fused experts by which a quantized checkpoint's lists of modules are read.

    Args:
        names: the checkpoint's, of gate, up and down projection. Older versions of vLLM take no others than
            Hugging Face's usual ones there.
    """
    gate, up, down = names
    known = "ckpt_names" in inspect.signature(FusedMoEFactory).parameters
    return {"ckpt_names": (gate, down, up)} if known else {}


def routed_experts_of(fused: torch.nn.Module) -> tuple[torch.nn.Module, str]:
    """Return the module that owns the weights of vLLM's fused experts, and its name below ``fused``.

    The name is "" where the fused layer owns them itself.
    """
    owner = getattr(fused, "routed_experts", None)
    return (fused, "") if owner is None else (owner, "routed_experts")
