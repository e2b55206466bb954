"""What models are made of: layers whose weights live in vLLM's modules and whose math is MindSpore's.

Importing this package imports torch, MindSpore and vLLM, so it happens where a model is built.
"""

import torch  # noqa: F401  first: one OpenMP runtime then serves torch and MindSpore

from mszoo.layers.activation import Activation, GatedActivation
from mszoo.layers.attention import Attention, EncoderAttention
from mszoo.layers.embedding import (
    LogitsProcessor,
    TokenEmbedding,
    apply_embedding,
    lm_head,
    token_embedding,
)
from mszoo.layers.linear import (
    WholeLinear,
    apply_linear,
    column_linear,
    gate_up_linear,
    heads_on_this_rank,
    qkv_linear,
    row_linear,
)
from mszoo.layers.model import (
    CausalLM,
    Encoder,
    Module,
    ModuleList,
    current_model_config,
    lora_is_enabled,
    tensor_parallel_size,
)
from mszoo.layers.moe import Experts, TopKRouter
from mszoo.layers.norm import GemmaRMSNorm, LayerNorm, QKNorm, RMSNorm
from mszoo.layers.rotary import RotaryEmbedding

__all__ = [
    "Activation",
    "Attention",
    "CausalLM",
    "Encoder",
    "EncoderAttention",
    "Experts",
    "GatedActivation",
    "GemmaRMSNorm",
    "LayerNorm",
    "LogitsProcessor",
    "Module",
    "ModuleList",
    "QKNorm",
    "RMSNorm",
    "RotaryEmbedding",
    "TokenEmbedding",
    "TopKRouter",
    "WholeLinear",
    "apply_embedding",
    "apply_linear",
    "column_linear",
    "current_model_config",
    "gate_up_linear",
    "heads_on_this_rank",
    "lm_head",
    "lora_is_enabled",
    "qkv_linear",
    "row_linear",
    "tensor_parallel_size",
    "token_embedding",
]
