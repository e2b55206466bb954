"""The native heads that propose tokens to a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mszoo.adapters.decoder import FUSED, LATENT, TINY
from mszoo.adapters.native.experts import GROUPED
from mszoo.registry import Capability, ModelAdapter

_ONE_LAYER: Mapping[str, Any] = {**TINY, "model_type": "llama", "num_hidden_layers": 1}
_ROUTED: Mapping[str, Any] = {**TINY, **GROUPED, "first_k_dense_replace": 1, "num_nextn_predict_layers": 1}


def _head(architecture: str, drafts: str, module: str, config: Mapping[str, Any]) -> ModelAdapter:
    return ModelAdapter(
        architecture,
        f"mszoo.models.{module}",
        capabilities=frozenset({Capability.TENSOR_PARALLEL}),
        devices=("cpu",),  # vllm-ascend's proposers are others, which nobody has tried with them
        packed_modules_mapping=FUSED,
        example_config={**config, "architectures": [architecture]},
        drafts=drafts,
    )


_EAGLE3 = "eagle:Eagle3LlamaForCausalLM"
RECORDS = (
    _head(
        "DeepSeekMTPModel",
        "mtp",
        "prediction:DeepSeekMTPModel",
        {**_ROUTED, **LATENT, "model_type": "deepseek_v3"},
    ),
    _head("Eagle3LlamaForCausalLM", "eagle3", _EAGLE3, _ONE_LAYER),
    _head("EagleLlamaForCausalLM", "eagle", "eagle:EagleLlamaForCausalLM", _ONE_LAYER),
    _head("Glm4MoeMTPModel", "mtp", "prediction:Glm4MoeMTPModel", {**_ROUTED, "model_type": "glm4_moe"}),
    _head("LlamaForCausalLMEagle3", "eagle3", _EAGLE3, _ONE_LAYER),
    _head(
        "MedusaModel",
        "medusa",
        "medusa:MedusaModel",
        {"model_type": "medusa", "hidden_size": 64, "vocab_size": 256, "num_heads": 2},
    ),
)
