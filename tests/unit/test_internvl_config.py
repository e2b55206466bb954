"""What the readers of InternVL's configs make of published ones, and what they refuse by name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import InternVLConfig, PretrainedConfig, Qwen2Config

from mszoo.models.internlm import InternLM2ForCausalLM
from mszoo.models.internvl import InternVLChatModel, InternVLForConditionalGeneration, InternVLSpec
from mszoo.models.qwen2 import Qwen2ForCausalLM
from mszoo.models.qwen3 import Qwen3ForCausalLM
from mszoo.registry.errors import RefusalError

#: As in OpenGVLab/InternVL3-1B-hf, shortened.
INTERNVL: dict[str, Any] = {
    "downsample_ratio": 0.5,
    "image_token_id": 151667,
    "projector_hidden_act": "gelu",
    "text_config": {"model_type": "qwen2", "hidden_size": 896, "vocab_size": 151674},
    "vision_config": {
        "attention_bias": True,
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "image_size": [448, 448],
        "intermediate_size": 4096,
        "layer_norm_eps": 1e-06,
        "model_type": "internvl_vision",
        "norm_type": "layer_norm",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": [14, 14],
        "use_qk_norm": False,
    },
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "default",
}


def read(**fields: Any) -> InternVLSpec:
    config = InternVLConfig(**(INTERNVL | fields))
    return InternVLForConditionalGeneration.read_config(config, "native.InternVLForConditionalGeneration")


def vision(**fields: Any) -> dict[str, Any]:
    return {"vision_config": INTERNVL["vision_config"] | fields}


def test_internvl3() -> None:
    spec = read()
    assert (spec.vision.num_positions, spec.vision.num_layers, spec.factor) == (1025, 24, 2)
    assert (spec.vision.qkv_bias, spec.vision.qk_norm, spec.vision.norm.kind) == (True, None, "layer_norm")
    assert spec.vision.layer_scale
    assert spec.vision.norm_after_layers is None
    assert not spec.by_columns
    assert spec.decoder is Qwen2ForCausalLM


def test_the_tower_of_the_largest() -> None:
    spec = read(
        **vision(norm_type="rms_norm", use_qk_norm=True, attention_bias=False, use_mean_pooling=False)
    )
    assert spec.vision.norm.kind == "rms_norm"
    assert spec.vision.qk_norm is not None
    assert not spec.vision.qkv_bias
    assert spec.vision.norm_after_layers is not None
    assert read(text_config={"model_type": "qwen3"}).decoder is Qwen3ForCausalLM


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"text_config": {"model_type": "gpt_oss"}}, "text_config.model_type='gpt_oss'"),
        (
            {"text_config": {"tie_word_embeddings": True}, "tie_word_embeddings": False},
            "tie_word_embeddings=False",
        ),
        ({"vision_feature_layer": -2}, "vision_feature_layer=-2"),
        ({"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy='full'"),
        ({"downsample_ratio": 0.3}, "downsample_ratio=0.3"),
        ({"downsample_ratio": 0.2}, "downsample_ratio=0.2"),  # five rows of patches don't divide 32
        (vision(image_size=[448, 224]), "image_size=[448, 224]"),
        (vision(image_size=[7, 7]), "image_size=[7, 7]"),
        (vision(image_size=[2**30, 2**30], patch_size=[1, 1]), "image_size=[1073741824, 1073741824]"),
        (vision(num_attention_heads=15), "num_attention_heads=15"),
        (vision(norm_type="batch_norm"), "norm_type='batch_norm'"),
        (vision(use_absolute_position_embeddings=False), "use_absolute_position_embeddings=False"),
    ],
)
def test_what_it_refuses(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(RefusalError) as raised:
        read(**fields)
    assert f"native.InternVLForConditionalGeneration: config.json says {what}" in str(raised.value)


#: As in OpenGVLab/InternVL2_5-1B, shortened; its class comes with the checkpoint.
CHAT: dict[str, Any] = {
    "downsample_ratio": 0.5,
    "force_image_size": 448,
    "ps_version": "v2",
    "select_layer": -1,
}
INTERN_VIT: dict[str, Any] = {
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "image_size": 448,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-06,
    "norm_type": "layer_norm",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "qk_normalization": False,
    "qkv_bias": True,
}


def read_chat(vision: dict[str, Any] | None = None, text: Any = None, **fields: Any) -> InternVLSpec:
    config = PretrainedConfig(**(CHAT | fields))
    config.vision_config = PretrainedConfig(**(INTERN_VIT | (vision or {})))  # type: ignore[attr-defined]
    config.text_config = Qwen2Config() if text is None else text  # type: ignore[attr-defined]
    return InternVLChatModel.read_config(config, "native.InternVLChatModel")


def test_the_publishers_layout() -> None:
    """The same network but for the names, and what the first version had otherwise."""
    spec = read_chat()
    assert spec.vision.qkv_name == "qkv"
    assert (spec.vision.num_layers, spec.layers_of_tower, spec.by_columns) == (24, 24, False)
    first = read_chat(select_layer=-4, ps_version="v1", text=SimpleNamespace(model_type="internlm2"))
    assert (first.vision.num_layers, first.layers_of_tower, first.by_columns) == (21, 24, True)
    assert first.decoder is InternLM2ForCausalLM
    large = read_chat({"norm_type": "rms_norm", "qk_normalization": True, "qkv_bias": False})
    assert large.vision.qk_norm is not None
    assert not large.vision.qkv_bias


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"text": SimpleNamespace(model_type="phi3")}, "text_config.model_type='phi3'"),
        ({"select_layer": 3}, "select_layer=3"),
        ({"select_layer": -25}, "select_layer=-25"),
        ({"force_image_size": 224}, "force_image_size=224"),
        ({"ps_version": "v3"}, "ps_version='v3'"),
        ({"vision": {"norm_type": "group_norm"}}, "norm_type='group_norm'"),
    ],
)
def test_what_the_publishers_layout_refuses(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(RefusalError) as raised:
        read_chat(**fields)
    assert f"native.InternVLChatModel: config.json says {what}" in str(raised.value)
