"""The ``native`` suite: mszoo's own MindSpore models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mszoo.registry import Capability, ModelAdapter, Suite, hookimpl

_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_CAPABILITIES = frozenset({Capability.LORA, Capability.TENSOR_PARALLEL, Capability.QUANTIZATION})
_TINY = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
}


@hookimpl
def mszoo_suite() -> Suite:
    """Name the suite."""
    return Suite("native", description="mszoo's own MindSpore models")


@hookimpl
def mszoo_model_adapters() -> Iterable[ModelAdapter]:
    """Give the native models."""
    return [
        _decoder("LlamaForCausalLM", "mszoo.models.llama", model_type="llama"),
        _decoder("MistralForCausalLM", "mszoo.models.mistral", model_type="mistral"),
        _decoder("Qwen2ForCausalLM", "mszoo.models.qwen2", model_type="qwen2"),
        _decoder("Qwen3ForCausalLM", "mszoo.models.qwen3", model_type="qwen3"),
    ]


def _decoder(architecture: str, module: str, **config: Any) -> ModelAdapter:
    return ModelAdapter(
        architecture,
        f"{module}:{architecture}",
        capabilities=_CAPABILITIES,
        packed_modules_mapping=_FUSED,
        example_config=_TINY | config | {"architectures": [architecture]},
    )
