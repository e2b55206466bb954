"""What the readers of LLaVA's and Idefics3's configs make of published ones, and what they refuse by name."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Idefics3Config, LlavaConfig, LlavaNextConfig, LlavaOnevisionConfig

from mszoo.layers.vision import VisionSpec
from mszoo.models.idefics3 import Idefics3ForConditionalGeneration, Idefics3Spec
from mszoo.models.llava import LlavaForConditionalGeneration, LlavaSpec
from mszoo.models.llava_next import LlavaNextForConditionalGeneration
from mszoo.models.mistral import MistralForCausalLM
from mszoo.models.onevision import LlavaOnevisionForConditionalGeneration
from mszoo.models.qwen2 import Qwen2ForCausalLM
from mszoo.registry.errors import RefusalError

#: As in llava-hf/llava-1.5-7b-hf, shortened.
LLAVA = {
    "ignore_index": -100,
    "image_token_index": 32000,
    "projector_hidden_act": "gelu",
    "text_config": {"model_type": "llama", "vocab_size": 32064, "rms_norm_eps": 1e-05},
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
        "vocab_size": 32000,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}
#: As in llava-hf/llava-interleave-qwen-0.5b-hf, shortened; another layer is read.
INTERLEAVE = LLAVA | {
    "text_config": {"model_type": "qwen2", "tie_word_embeddings": True},
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 384,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 26,
        "patch_size": 14,
        "vision_use_head": False,
    },
    "vision_feature_select_strategy": "full",
}


def read(**fields: Any) -> LlavaSpec:
    config = LlavaConfig(**(LLAVA | fields))
    return LlavaForConditionalGeneration.read_config(config, "native.LlavaForConditionalGeneration")


def test_llava_1_5() -> None:
    spec = read()
    assert isinstance(spec.vision, VisionSpec)
    assert (spec.vision.num_positions, spec.vision.num_layers) == (577, 23)
    assert spec.vision.class_embedding
    assert (spec.feature_layers, spec.layers_of_tower, spec.drops_first) == ((23,), 24, True)
    assert spec.vision.mlp.hidden_act == "quick_gelu"
    assert (spec.projector_act, spec.projector_bias) == ("gelu", True)


def test_siglip_and_another_decoder() -> None:
    spec = read(**INTERLEAVE)
    assert (spec.vision.num_positions, spec.vision.num_layers) == (729, 25)
    assert spec.vision.patch_bias
    assert spec.vision.norm_before_layers is None
    assert not spec.drops_first
    assert spec.decoder is Qwen2ForCausalLM


def test_several_layers() -> None:
    spec = read(vision_feature_layer=[-1, 3, -25], text_config={"model_type": "mistral"})
    assert spec.feature_layers == (24, 3, 0)
    assert spec.vision.num_layers == 24
    assert spec.decoder is MistralForCausalLM


def vision(**fields: Any) -> dict[str, Any]:
    return {"vision_config": LLAVA["vision_config"] | fields}


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"text_config": {"model_type": "phi3"}}, "text_config.model_type='phi3'"),
        ({"vision_config": {"model_type": "pixtral"}}, "vision_config.model_type='pixtral'"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings=True"),
        ({"vision_feature_layer": 25}, "vision_feature_layer=25"),
        ({"vision_feature_layer": []}, "vision_feature_layer=[]"),
        (INTERLEAVE | {"vision_feature_layer": -1}, "vision_feature_layer=-1"),
        (vision(image_size=8), "patch_size=14"),
        (vision(image_size=[336, 336]), "image_size=[336, 336], which must be a whole number above 0"),
    ],
)
def test_what_it_refuses(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(RefusalError) as raised:
        read(**fields)
    assert f"native.LlavaForConditionalGeneration: config.json says {what}" in str(raised.value)


def test_a_strategy_that_no_version_has() -> None:
    config = LlavaConfig(**LLAVA)
    object.__setattr__(config, "vision_feature_select_strategy", "half")
    with pytest.raises(RefusalError, match="vision_feature_select_strategy='half'"):
        LlavaForConditionalGeneration.read_config(config, "native.LlavaForConditionalGeneration")


def read_next(**fields: Any) -> LlavaSpec:
    config = LlavaNextConfig(**(LLAVA | fields))
    return LlavaNextForConditionalGeneration.read_config(config, "native.LlavaNextForConditionalGeneration")


def test_llava_1_6() -> None:
    assert read_next() == read()


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy='full'"),
        ({"image_grid_pinpoints": []}, "image_grid_pinpoints=[]"),
        ({"image_grid_pinpoints": [[336, 300]]}, "image_grid_pinpoints=[[336, 300]]"),
        ({"text_config": {"model_type": "granite"}}, "text_config.model_type='granite'"),
    ],
)
def test_what_llava_1_6_refuses(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(RefusalError) as raised:
        read_next(**fields)
    assert f"native.LlavaNextForConditionalGeneration: config.json says {what}" in str(raised.value)


def read_onevision(**fields: Any) -> LlavaSpec:
    config = LlavaOnevisionConfig(**(INTERLEAVE | {"vision_feature_layer": -1} | fields))
    who = "native.LlavaOnevisionForConditionalGeneration"
    return LlavaOnevisionForConditionalGeneration.read_config(config, who)


def test_onevision() -> None:
    """As in llava-hf/llava-onevision-qwen2-0.5b-ov-hf, shortened: the last layer is read as it is."""
    spec = read_onevision()
    assert (spec.feature_layers, spec.vision.num_layers, spec.layers_of_tower) == ((26,), 26, 26)
    assert spec.vision.norm_after_layers is None
    assert spec.decoder is Qwen2ForCausalLM


def test_onevision_keeps_as_many_tiles_as_vllm_counts() -> None:
    with pytest.raises(RefusalError, match="vision_aspect_ratio='anyres_max_4'"):
        read_onevision(vision_aspect_ratio="anyres_max_4")


#: As in HuggingFaceM4/Idefics3-8B-Llama3, shortened.
IDEFICS3: dict[str, Any] = {
    "image_token_id": 128257,
    "scale_factor": 2,
    "text_config": {"model_type": "llama", "vocab_size": 128259},
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 364,
        "intermediate_size": 4304,
        "model_type": "idefics3",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
    },
}


def read_idefics3(**fields: Any) -> Idefics3Spec:
    config = Idefics3Config(**(IDEFICS3 | fields))
    who = "native.Idefics3ForConditionalGeneration"
    return Idefics3ForConditionalGeneration.read_config(config, who)


def test_idefics3() -> None:
    spec = read_idefics3()
    assert (spec.vision.num_positions, spec.vision.num_layers, spec.scale_factor) == (676, 27, 2)
    assert spec.vision.norm_after_layers is not None
    assert spec.vision.norm_after_layers.name == "post_layernorm"


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"text_config": {"model_type": "mistral"}}, "text_config.model_type='mistral'"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings=True"),
        ({"scale_factor": 4}, "scale_factor=4"),
        # 25 patches on a side: rounding puts the reference's positions out of order.
        (
            {"vision_config": IDEFICS3["vision_config"] | {"image_size": 350}, "scale_factor": 5},
            "image_size=350",
        ),
        (
            {"vision_config": IDEFICS3["vision_config"] | {"image_size": 2**30, "patch_size": 1}},
            "image_size=1073741824",
        ),
        ({"vision_config": IDEFICS3["vision_config"] | {"num_hidden_layers": 2**20}}, "16384 at most"),
    ],
)
def test_what_idefics3_refuses(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(RefusalError) as raised:
        read_idefics3(**fields)
    said = str(raised.value)
    assert "native.Idefics3ForConditionalGeneration: config.json says" in said
    assert what in said
