"""The ``native`` suite: mszoo's own MindSpore models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mszoo.adapters.decoder import FUSED, FUSED_MLP, FUSED_TOO, INHERITED, TINY
from mszoo.registry import ModelAdapter, Suite, hookimpl


@hookimpl
def mszoo_suite() -> Suite:
    """Name the suite."""
    return Suite("native", description="mszoo's own MindSpore models")


@hookimpl
def mszoo_model_adapters() -> Iterable[ModelAdapter]:
    """Give the native models."""
    return [
        # vLLM refuses GLM-4 in float16.
        _decoder(
            "Glm4ForCausalLM", "mszoo.models.glm", FUSED_MLP, ("float32", "bfloat16"), model_type="glm4"
        ),
        _decoder("GlmForCausalLM", "mszoo.models.glm", FUSED_MLP, model_type="glm"),
        _decoder("LlamaForCausalLM", "mszoo.models.llama", model_type="llama"),
        _decoder("MistralForCausalLM", "mszoo.models.mistral", model_type="mistral"),
        _decoder("Phi3ForCausalLM", "mszoo.models.phi3", FUSED_TOO, model_type="phi3"),
        _decoder("Qwen2ForCausalLM", "mszoo.models.qwen2", model_type="qwen2"),
        _decoder("Qwen3ForCausalLM", "mszoo.models.qwen3", model_type="qwen3"),
    ]


def _decoder(
    architecture: str,
    module: str,
    fused: Mapping[str, tuple[str, ...]] = FUSED,
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16"),
    **config: Any,
) -> ModelAdapter:
    return ModelAdapter(
        architecture,
        f"{module}:{architecture}",
        capabilities=INHERITED,
        dtypes=dtypes,
        packed_modules_mapping=fused,
        example_config={**TINY, **config} | {"architectures": [architecture]},
    )
