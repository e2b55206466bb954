"""The native models that read images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mszoo.adapters.decoder import FUSED, TINY
from mszoo.registry import Capability, ModelAdapter

#: A tower of five by five patches, as conformance and the tests have it.
TINY_CLIP: Mapping[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 30,
    "patch_size": 6,
}


def _llava(architecture: str, module: str, **config: Any) -> ModelAdapter:
    """Return the record of a LLaVA, with the fields of a tiny config.json beside those that all have."""
    return ModelAdapter(
        architecture,
        f"mszoo.models.{module}:{architecture}",
        capabilities=frozenset({Capability.LORA, Capability.TENSOR_PARALLEL}),
        devices=("cpu",),  # nobody has tried its towers beside vllm-ascend
        packed_modules_mapping=FUSED,
        example_config={
            "architectures": [architecture],
            "image_token_index": 255,
            "image_seq_length": 25,
            "text_config": {"model_type": "llama", **TINY},
            "vision_config": dict(TINY_CLIP),
            **config,
        },
        modalities=("image",),
    )


RECORDS = (
    _llava("LlavaForConditionalGeneration", "llava", model_type="llava"),
    _llava(
        "LlavaNextForConditionalGeneration",
        "llava_next",
        model_type="llava_next",
        image_grid_pinpoints=[[30, 60], [60, 30], [60, 60]],
    ),
)
