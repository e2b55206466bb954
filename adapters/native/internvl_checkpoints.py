"""Checkpoints of InternVL in its publisher's layout, made of those in Hugging Face's, for conformance and tests."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: As checkpoints bring it: the file that ``auto_map`` names in config.json.
_CONFIGURATION = '''"""The config classes of internvl_chat."""

from transformers import AutoConfig, PretrainedConfig


class InternVisionConfig(PretrainedConfig):
    model_type = "intern_vit_6b"

    def __init__(self, **fields):
        super().__init__(**fields)


class InternVLChatConfig(PretrainedConfig):
    model_type = "internvl_chat"

    def __init__(self, vision_config=None, llm_config=None, **fields):
        super().__init__(**fields)
        self.vision_config = InternVisionConfig(**(vision_config or {}))
        self.llm_config = AutoConfig.for_model(**dict(llm_config or {"model_type": "qwen2"}))
'''
AUTO_MAP: Mapping[str, str] = {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"}
#: Names of tensors in Hugging Face's layout, and what the publisher's calls them.
_NAMES = (
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^(?:model\.)?vision_tower\.", "vision_model."),
    (r"^(?:model\.)?multi_modal_projector\.", "mlp1."),
    (r"^mlp1\.layer_norm\.", "mlp1.0."),
    (r"^mlp1\.linear_1\.", "mlp1.1."),
    (r"^mlp1\.linear_2\.", "mlp1.3."),
    (r"^(vision_model\.embeddings\.)cls_token$", r"\1class_embedding"),
    (r"^(vision_model\.embeddings\.)position_embeddings$", r"\1position_embedding"),
    (r"^(vision_model\.embeddings\.)patch_embeddings\.projection\.", r"\1patch_embedding."),
    (r"^vision_model\.encoder\.layer\.", "vision_model.encoder.layers."),
    (r"^(vision_model\..*\.)attention\.projection_layer\.", r"\1attn.proj."),
    (r"^(vision_model\..*\.)attention\.", r"\1attn."),
    (r"^(vision_model\..*\.)layernorm_before\.", r"\1norm1."),
    (r"^(vision_model\..*\.)layernorm_after\.", r"\1norm2."),
    (r"^(vision_model\..*\.)lambda_([12])$", r"\1ls\2"),
)
#: By the publisher's names of a vision config's fields, Hugging Face's.
_FIELDS = {"qkv_bias": "attention_bias", "qk_normalization": "use_qk_norm"}


def as_hugging_face(config: Mapping[str, Any], image_token: int) -> dict[str, Any]:
    """Return the config.json of Hugging Face's layout for one of the publisher's.

    Args:
        config: the publisher's; embeddings of a tile are in the order of rows (``ps_version`` "v2").
        image_token: the id of the token that stands for an embedding.
    """
    vision = {_FIELDS.get(name, name): value for name, value in config["vision_config"].items()}
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "image_token_id": image_token,
        "downsample_ratio": config["downsample_ratio"],
        "text_config": dict(config["llm_config"]),
        "vision_config": {**vision, "model_type": "internvl_vision"},
        "tie_word_embeddings": config["llm_config"].get("tie_word_embeddings", False),
    }


def write_publishers(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Write a checkpoint of the publisher's layout, with its config class.

    Args:
        folder: gets config.json, its class and model.safetensors.
        config: config.json.
        weights: by names of Hugging Face's layout.
    """
    import torch

    from safetensors.torch import save_file

    named = {_publishers(name): value for name, value in weights.items()}
    # The tower's queries, keys and values are in one tensor.
    for name in [one for one in named if one.startswith("vision_model.") and ".attn.q_proj." in one]:
        parts = [named.pop(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
        named[name.replace(".q_proj.", ".qkv.")] = torch.cat(parts)
    folder.mkdir(exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in named.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
    (folder / "configuration_internvl_chat.py").write_text(_CONFIGURATION, encoding="utf-8")


def _publishers(name: str) -> str:
    """Return what the publisher's layout calls a tensor of Hugging Face's."""
    for theirs, ours in _NAMES:
        name = re.sub(theirs, ours, name)
    return name
