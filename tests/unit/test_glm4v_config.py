"""What the reader of GLM-4.1V's configs makes of the published config, and what it refuses by name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from transformers import Glm4vConfig, Glm4vMoeConfig

from mszoo.models.glm4v import (
    Glm4vForConditionalGeneration,
    Glm4vMoeForConditionalGeneration,
    Glm4vMoeText,
    Glm4vText,
)
from mszoo.models.qwen2_vl import QwenVLSpec
from mszoo.registry.errors import RefusalError

WHO = "native.Glm4vForConditionalGeneration"
#: As in zai-org/GLM-4.1V-9B-Thinking, shortened.
GLM4V = {
    "attention_bias": True,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "max_position_embeddings": 65536,
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"mrope_section": [8, 12, 12], "type": "default"},
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vision_config": {
        "attention_bias": False,
        "depth": 24,
        "hidden_act": "silu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": 1536,
        "image_size": 336,
        "intermediate_size": 13696,
        "num_heads": 12,
        "out_hidden_size": 4096,
        "patch_size": 14,
        "rms_norm_eps": 1e-05,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    "vocab_size": 151552,
}


def read(vision: dict[str, Any] | None = None, **fields: Any) -> QwenVLSpec:
    config = Glm4vConfig(**copy.deepcopy(GLM4V | fields))
    for name, value in (vision or {}).items():
        config.vision_config.__dict__[name] = value  # transformers' class would refuse some of them itself
    return Glm4vForConditionalGeneration.read_config(config, WHO)


def test_the_published_config() -> None:
    spec = read()
    vision, merger = spec.vision, spec.vision.merger
    assert (vision.hidden_size, vision.num_layers, vision.num_heads) == (1536, 24, 12)
    assert (vision.num_positions, vision.resampling) == (24 * 24, "bicubic")
    assert (vision.patch_bias, vision.qkv_bias, vision.o_bias) == (True, False, False)
    # The tower's layers are as wide inside as the embedding, and the merger as the config says.
    assert (vision.mlp.intermediate_size, vision.mlp.gated, vision.mlp.bias) == (4096, True, False)
    assert merger.output_size == 4096
    assert merger.mlp.intermediate_size == 13696  # type: ignore[union-attr]
    decoder = Glm4vText.read_config(spec.text, "native.Glm4vText")
    assert not decoder.tie_word_embeddings
    attention: Any = decoder.layers[0].attention
    assert (attention.qkv_bias, attention.o_bias, attention.head_size) == (True, False, 128)
    assert not attention.rotary.is_neox_style
    assert attention.rotary.parameters["partial_rotary_factor"] == 0.5
    assert attention.rotary.axes == (0,) * 8 + (1,) * 12 + (2,) * 12
    norms = [norm.name for norm in decoder.layers[0].norms if norm is not None]
    assert norms[1::2] == ["post_self_attn_layernorm", "post_mlp_layernorm"]


def test_biases() -> None:
    """The tower's are told; the decoder has them whatever is said, as Hugging Face's network does."""
    assert read({"attention_bias": True}).vision.qkv_bias
    decoder = Glm4vText.read_config(read(attention_bias=False).text, "native.Glm4vText")
    assert decoder.layers[0].attention.qkv_bias  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("vision", "what"),
    [
        ({"out_hidden_size": 64}, "out_hidden_size=64"),
        ({"num_heads": 7}, "num_heads=7"),
        ({"num_heads": 768}, "num_heads=768"),
        ({"head_dim": 64}, "head_dim=64"),
        ({"depth": 2**20}, "depth=1048576, which must be 16384 at most"),
        ({"image_size": 13}, "image_size=13"),
        ({"image_size": [336, 336]}, "image_size=[336, 336], which must be a whole number above 0"),
        ({"image_size": 2**30}, "image_size=1073741824"),
        ({"image_size": 2**40}, "image_size=1099511627776, which must be 2147483647 at most"),
        ({"patch_size": 0}, "patch_size=0, which must be a whole number above 0"),
        ({"intermediate_size": True}, "intermediate_size=True, which must be a whole number above 0"),
        ({"spatial_merge_size": 2**40}, "spatial_merge_size=1099511627776"),
        ({"temporal_patch_size": "2"}, "temporal_patch_size='2'"),
        ({"in_channels": -3}, "in_channels=-3"),
        ({"attention_bias": 1}, "attention_bias=1, which must be true or false"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps='small', which must be a number"),
        ({"hidden_act": 3}, "hidden_act=3, which must be a name"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters={'rope_type': 'yarn'}"),
    ],
)
def test_towers_that_are_refused(vision: dict[str, Any], what: str) -> None:
    with pytest.raises(RefusalError) as raised:
        read(vision)
    assert f"{WHO}: config.json says {what}" in str(raised.value)


@pytest.mark.parametrize("section", [None, [16, 24, 24], [8, 12], [8, 12, 0, 12]])
def test_sections_that_are_refused(section: Any) -> None:
    """They share out the part of a head that turns."""
    text = read().text
    text.rope_parameters = {**text.rope_parameters, "mrope_section": section}
    with pytest.raises(RefusalError) as raised:
        Glm4vText.read_config(text, "native.Glm4vText")
    assert f"native.Glm4vText: config.json says mrope_section={section!r}" in str(raised.value)


def test_glm4v_moe() -> None:
    """As GLM-4.5V has it, in sizes that are made up: neighbouring halves of a head turn, and nothing norms them."""
    text = {
        "attention_bias": True,
        "first_k_dense_replace": 1,
        "head_dim": 128,
        "hidden_size": 4096,
        "n_routed_experts": 128,
        "num_attention_heads": 96,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 3,
        "num_key_value_heads": 8,
        "partial_rotary_factor": 0.5,
        "rope_scaling": {"mrope_section": [8, 12, 12], "type": "default"},
        "use_qk_norm": True,
    }
    config = Glm4vMoeConfig(text_config=text, vision_config=dict(GLM4V["vision_config"]))  # type: ignore[call-overload]
    spec = Glm4vMoeForConditionalGeneration.read_config(config, WHO)
    decoder = Glm4vMoeText.read_config(spec.text, "native.Glm4vMoeText")
    assert [layer.has_experts for layer in decoder.layers] == [False, True, True]
    attention: Any = decoder.layers[0].attention
    assert (attention.qkv_bias, attention.qk_norm, attention.rotary.is_neox_style) == (True, None, True)
    assert attention.rotary.axes == (0,) * 8 + (1,) * 12 + (2,) * 12
    spec.text.num_experts_per_tok = 129
    with pytest.raises(RefusalError, match="num_experts_per_tok=129"):
        Glm4vMoeText.read_config(spec.text, "native.Glm4vMoeText")


def test_heads_of_another_size() -> None:
    """Hugging Face's decoder shares out the width of the stream, whatever the config says."""
    text = read().text
    text.head_dim = 64
    with pytest.raises(RefusalError, match="head_dim=64"):
        Glm4vText.read_config(text, "native.Glm4vText")
