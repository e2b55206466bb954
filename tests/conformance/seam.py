"""Every name of vLLM that conformance leans on; nobody else in this package imports vllm.

Importing this package imports no vLLM, so each name is imported where it is asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

#: The module that has a name.
_LATE = {
    "AttentionBackendEnum": "vllm.v1.attention.backends.registry",
    "LLM": "vllm",
    "SamplingParams": "vllm",
    "PoolingParams": "vllm",
    "LoRARequest": "vllm.lora.request",
    "CompilationConfig": "vllm.config",
    "VllmConfig": "vllm.config",
    "set_current_vllm_config": "vllm.config",
    "AttentionLayerBase": "vllm.model_executor.layers.attention_layer_base",
    "LinearBase": "vllm.model_executor.layers.linear",
    "VocabParallelEmbedding": "vllm.model_executor.layers.vocab_parallel_embedding",
}


def __getattr__(name: str) -> Any:
    """Import a name.

    Raises:
        AttributeError: conformance has no such name, or vLLM hasn't.
    """
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)
