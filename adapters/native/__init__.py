"""The ``native`` suite: mszoo's own MindSpore models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mszoo.adapters.decoder import FUSED, FUSED_MLP, FUSED_TOO, INHERITED, TINY
from mszoo.registry import Capability, ModelAdapter, Suite, hookimpl


@hookimpl
def mszoo_suite() -> Suite:
    """Name the suite."""
    return Suite("native", description="mszoo's own MindSpore models")


@hookimpl
def mszoo_model_adapters() -> Iterable[ModelAdapter]:
    """Give the native models."""
    return [
        # vLLM refuses GLM-4 in float16.
        _decoder("Glm4ForCausalLM", "glm", FUSED_MLP, ("float32", "bfloat16"), model_type="glm4"),
        _decoder("GlmForCausalLM", "glm", FUSED_MLP, model_type="glm"),
        _decoder("LlamaForCausalLM", "llama", model_type="llama"),
        _decoder("MistralForCausalLM", "mistral", model_type="mistral"),
        _decoder("Phi3ForCausalLM", "phi3", FUSED_TOO, model_type="phi3"),
        _decoder("Qwen2ForCausalLM", "qwen2", model_type="qwen2"),
        _decoder("Qwen3ForCausalLM", "qwen3", model_type="qwen3"),
    ]


def _decoder(
    architecture: str,
    module: str,
    fused: Mapping[str, tuple[str, ...]] = FUSED,
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16"),
    lacks: frozenset[Capability] = frozenset(),
    **config: Any,
) -> ModelAdapter:
    """Return the record of a decoder.

    Args:
        architecture: the name in config.json, and of its class.
        module: of mszoo.models, that has the class.
        fused: what vLLM's fused layers hold of its checkpoints' modules.
        dtypes: what it computes in.
        lacks: what it doesn't inherit from vLLM's layers.
        config: the fields of a tiny config.json beside those of ``TINY``.
    """
    return ModelAdapter(
        architecture,
        f"mszoo.models.{module}:{architecture}",
        capabilities=INHERITED - lacks,
        dtypes=dtypes,
        packed_modules_mapping=fused,
        example_config={**TINY, **config} | {"architectures": [architecture]},
    )
