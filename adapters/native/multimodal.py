"""The native models that read images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mszoo.adapters.decoder import FUSED, TINY
from mszoo.registry import Capability, ModelAdapter

#: Five by five patches.
_CLIP: Mapping[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 30,
    "patch_size": 6,
}

RECORDS = (
    ModelAdapter(
        "LlavaForConditionalGeneration",
        "mszoo.models.llava:LlavaForConditionalGeneration",
        capabilities=frozenset({Capability.LORA, Capability.TENSOR_PARALLEL}),
        devices=("cpu",),  # nobody has tried its towers beside vllm-ascend
        packed_modules_mapping=FUSED,
        example_config={
            "model_type": "llava",
            "architectures": ["LlavaForConditionalGeneration"],
            "image_token_index": 255,
            "image_seq_length": 25,
            "text_config": {"model_type": "llama", **TINY},
            "vision_config": dict(_CLIP),
        },
        modalities=("image",),
    ),
)
