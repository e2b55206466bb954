"""Every name of vLLM that the bridge leans on; nobody else in this room imports vllm.

Registration runs in each of vLLM's processes, so what it doesn't need, and half of vLLM comes with, is imported
where it is first asked for: ``from mszoo.adapters.vllm.seam import DispatchPooler`` inside a function.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from vllm.logger import init_logger
from vllm.model_executor.models.interfaces import (
    SupportsLoRA,
    SupportsMRoPE,
    SupportsMultiModal,
    SupportsPP,
    supports_pp,
)
from vllm.model_executor.models.registry import ModelRegistry
from vllm.platforms import current_platform
from vllm.version import __version__

__all__ = [
    "ModelRegistry",
    "SupportsLoRA",
    "SupportsMRoPE",
    "SupportsMultiModal",
    "SupportsPP",
    "current_platform",
    "init_logger",
    "supports_pp",
    "vllm_version",
]

#: What is imported where it is asked for, and the module that has it.
_LATE = {
    "AttentionBackendEnum": "vllm.v1.attention.backends.registry",
    "EngineArgs": "vllm",
    "LLM": "vllm",
    "SamplingParams": "vllm",
    "get_config": "vllm.transformers_utils.config",
    "get_current_vllm_config": "vllm.config",
    "create_forward_context": "vllm.forward_context",
    "get_forward_context": "vllm.forward_context",
    "is_forward_context_available": "vllm.forward_context",
    "override_forward_context": "vllm.forward_context",
    "MultiModelKeys": "vllm.model_executor.models.module_mapping",
    "get_pp_group": "vllm.distributed",
    "get_tp_group": "vllm.distributed",
    "IntermediateTensors": "vllm.sequence",
    "ensure_model_parallel_initialized": "vllm.distributed",
    "init_distributed_environment": "vllm.distributed",
    "set_current_vllm_config": "vllm.config",
    "set_default_torch_dtype": "vllm.utils.torch_utils",
    "default_weight_loader": "vllm.model_executor.model_loader.weight_utils",
    "CustomOp": "vllm.model_executor.custom_op",
    "op_registry_oot": "vllm.model_executor.custom_op",
    "configure_quant_config": "vllm.model_executor.model_loader.utils",
    "AggregateStatLoggerBase": "vllm.v1.metrics.loggers",
    "as_embedding_model": "vllm.model_executor.models.adapters",
    "as_seq_cls_model": "vllm.model_executor.models.adapters",
    "Eagle3LlamaForCausalLM": "vllm.model_executor.models.llama_eagle3",
    "DispatchPooler": "vllm.model_executor.layers.pooler",
    "get_seq_pooling_method": "vllm.model_executor.layers.pooler.seqwise",
    "pooler_for_token_classify": "vllm.model_executor.layers.pooler.tokwise",
    "ColumnParallelLinear": "vllm.model_executor.layers.linear",
    "LinearBase": "vllm.model_executor.layers.linear",
    "RowParallelLinear": "vllm.model_executor.layers.linear",
    "VocabParallelEmbedding": "vllm.model_executor.layers.vocab_parallel_embedding",
    "VocabParallelEmbeddingWithLoRA": "vllm.lora.layers",
    "MergedColumnParallelLinearWithLoRA": "vllm.lora.layers",
    "BaseLayerWithLoRA": "vllm.lora.layers",
    "LoRARequest": "vllm.lora.request",
    "MergedColumnParallelLinear": "vllm.model_executor.layers.linear",
    "QKVParallelLinear": "vllm.model_executor.layers.linear",
    "IrOp": "vllm.ir.op",
    "HAS_TRITON": "vllm.triton_utils",
    "is_moe_model": "vllm.lora.utils",
}


def __getattr__(name: str) -> Any:
    """Import a late name.

    Raises:
        AttributeError: the bridge has no such name, or vLLM hasn't.
    """
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _imported(name)


@functools.cache  # some are asked for in each step
def _imported(name: str) -> Any:
    return getattr(importlib.import_module(_LATE[name]), name)


def vllm_version() -> str:
    """Return the version that vLLM says it has."""
    return str(__version__)
