"""What the readers of Qwen-VLs' configs make of published configs, and what they refuse by name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from transformers import Qwen2_5_VLConfig, Qwen2VLConfig, Qwen3VLConfig, Qwen3VLMoeConfig

from mszoo.layers.mrope import axes_of
from mszoo.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from mszoo.models.qwen2_vl import Qwen2VLForConditionalGeneration, Qwen2VLText, QwenVLSpec
from mszoo.models.qwen3_vl import (
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLMoeText,
    Qwen3VLText,
)
from mszoo.registry.errors import RefusalError

#: As in Qwen/Qwen2-VL-2B-Instruct, shortened.
QWEN2_VL = {
    "hidden_act": "silu",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "num_attention_heads": 12,
    "num_hidden_layers": 28,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"mrope_section": [16, 24, 24], "type": "mrope"},
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vision_config": {"hidden_size": 1536, "in_chans": 3, "model_type": "qwen2_vl", "spatial_patch_size": 14},
    "vocab_size": 151936,
}
#: As in Qwen/Qwen2.5-VL-3B-Instruct, shortened.
QWEN2_5_VL = QWEN2_VL | {
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "vision_config": {
        "depth": 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    },
}
#: As in Qwen/Qwen3-VL-2B-Instruct, shortened.
QWEN3_VL = {
    "text_config": {
        "head_dim": 128,
        "hidden_size": 2048,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        "rope_theta": 5000000,
    },
    "tie_word_embeddings": True,
    "vision_config": {
        "deepstack_visual_indexes": [5, 11, 17],
        "depth": 24,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "num_position_embeddings": 2304,
        "out_hidden_size": 2048,
        "patch_size": 16,
    },
}
#: As in Qwen/Qwen3-VL-30B-A3B-Instruct, shortened.
QWEN3_VL_MOE = {
    "text_config": {
        "decoder_sparse_step": 1,
        "head_dim": 128,
        "hidden_size": 2048,
        "mlp_only_layers": [],
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        "rope_theta": 5000000,
    },
    "tie_word_embeddings": False,
    "vision_config": {
        "deepstack_visual_indexes": [8, 16, 24],
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "model_type": "qwen3_vl_moe",
        "num_heads": 16,
        "num_position_embeddings": 2304,
        "out_hidden_size": 2048,
        "patch_size": 16,
    },
}
KINDS: dict[str, tuple[type[Any], type[Any], dict[str, Any]]] = {
    "2": (Qwen2VLConfig, Qwen2VLForConditionalGeneration, QWEN2_VL),
    "2.5": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, QWEN2_5_VL),
    "3": (Qwen3VLConfig, Qwen3VLForConditionalGeneration, QWEN3_VL),
    "3 MoE": (Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration, QWEN3_VL_MOE),
}


def read(kind: str, vision: dict[str, Any] | None = None, **fields: Any) -> QwenVLSpec:
    config_class, model, published = KINDS[kind]
    values = copy.deepcopy(published | fields)
    values["vision_config"] |= vision or {}
    return model.read_config(config_class(**values), f"native.{model.__name__}")


def test_qwen2_vl() -> None:
    spec = read("2")
    vision = spec.vision
    assert (vision.hidden_size, vision.num_layers, vision.num_heads, vision.window) == (1280, 32, 16, None)
    assert (vision.pixels, vision.unit, vision.merger.output_size) == (1176, 4, 1536)
    assert (vision.mlp.intermediate_size, vision.mlp.hidden_act, vision.mlp.gated) == (
        5120,
        "quick_gelu",
        False,
    )
    decoder = Qwen2VLText.read_config(spec.text, "native.Qwen2VLText")
    assert decoder.tie_word_embeddings
    rotary: Any = decoder.layers[0].attention.rotary  # type: ignore[union-attr]
    assert rotary.axes == (0,) * 16 + (1,) * 24 + (2,) * 24
    assert decoder.layers[0].attention.sliding_window is None  # type: ignore[union-attr]


def test_qwen2_5_vl() -> None:
    vision = read("2.5").vision
    assert (vision.window, vision.whole_layers) == (4, (7, 15, 23, 31))
    assert (vision.norm.kind, vision.mlp.gated, vision.merger.output_size) == ("rms_norm", True, 2048)


def test_qwen3_vl() -> None:
    spec = read("3")
    vision = spec.vision
    assert (vision.deepstack, vision.num_positions, vision.patch_bias) == ((5, 11, 17), 2304, True)
    decoder = Qwen3VLText.read_config(spec.text, "native.Qwen3VLText")
    assert decoder.tie_word_embeddings
    rotary: Any = decoder.layers[0].attention.rotary  # type: ignore[union-attr]
    assert rotary.axes == (0, 1, 2) * 20 + (0,) * 4


def test_qwen3_vl_moe() -> None:
    spec = read("3 MoE")
    assert spec.vision.deepstack == (8, 16, 24)
    decoder = Qwen3VLMoeText.read_config(spec.text, "native.Qwen3VLMoeText")
    assert not decoder.tie_word_embeddings
    assert all(layer.has_experts for layer in decoder.layers)
    moe: Any = decoder.layers[0].mlp
    assert (moe.num_experts, moe.top_k, moe.intermediate_size, moe.renormalize) == (128, 8, 768, True)
    assert moe.stacked_names == ("experts.gate_up_proj", "experts.down_proj")
    rotary: Any = decoder.layers[0].attention.rotary  # type: ignore[union-attr]
    assert rotary.axes == (0, 1, 2) * 20 + (0,) * 4


@pytest.mark.parametrize("renormalizes", [True, False])
def test_weights_of_experts_add_up(renormalizes: bool) -> None:
    """Whatever the config says: Hugging Face's network never reads ``norm_topk_prob``."""
    text = read("3 MoE").text
    text.norm_topk_prob = renormalizes
    moe: Any = Qwen3VLMoeText.read_config(text, "native.Qwen3VLMoeText").layers[0].mlp
    assert moe.renormalize


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("num_experts_per_tok", 129, "num_experts_per_tok=129 with 128 experts to choose of"),
        (
            "moe_intermediate_size",
            2**40,
            "moe_intermediate_size=1099511627776, which must be 2147483647 at most",
        ),
        ("moe_intermediate_size", 1024, "moe_intermediate_size=1024"),
        ("num_local_experts", 0, "num_experts=0, which must be a whole number above 0"),
        ("decoder_sparse_step", 0, "decoder_sparse_step=0"),
        ("mlp_only_layers", 3, "mlp_only_layers=3"),
    ],
)
def test_experts_that_are_refused(field: str, value: Any, what: str) -> None:
    text = read("3 MoE").text
    text.__dict__[field] = value  # transformers' class would refuse some of them itself
    with pytest.raises(RefusalError) as raised:
        Qwen3VLMoeText.read_config(text, "native.Qwen3VLMoeText")
    assert f"native.Qwen3VLMoeText: config.json says {what}" in str(raised.value)


def test_axes_that_take_turns() -> None:
    """As Qwen3-VL has them: the first axis has what the others leave."""
    assert axes_of([24, 20, 20], interleaved=True) == (0, 1, 2) * 20 + (0,) * 4
    assert axes_of([2, 1, 1], interleaved=False) == (0, 0, 1, 2)


@pytest.mark.parametrize(
    ("kind", "vision", "what"),
    [
        ("2", {"hidden_size": 64}, "hidden_size=64"),
        ("2", {"num_heads": 15}, "num_heads=15"),
        ("2", {"depth": 2**20}, "depth=1048576, which must be 16384 at most"),
        ("2", {"in_channels": 2**40}, "in_channels=1099511627776"),
        ("2", {"num_heads": 640}, "num_heads=640"),
        ("2", {"patch_size": [14, 14]}, "patch_size=[14, 14]"),
        ("2.5", {"out_hidden_size": 64}, "out_hidden_size=64"),
        ("2.5", {"window_size": 20}, "window_size=20"),
        ("3", {"num_position_embeddings": 2305}, "num_position_embeddings=2305"),
        ("3", {"deepstack_visual_indexes": [24]}, "deepstack_visual_indexes=[24]"),
        ("3", {"deepstack_visual_indexes": [11, 5]}, "deepstack_visual_indexes=[11, 5]"),
    ],
)
def test_towers_that_are_refused(kind: str, vision: dict[str, Any], what: str) -> None:
    with pytest.raises(RefusalError) as raised:
        read(kind, vision)
    name = KINDS[kind][1].__name__
    assert f"native.{name}: config.json says {what}" in str(raised.value)


@pytest.mark.parametrize("section", [None, [16, 24], [16, 24, 25], "16"])
def test_sections_that_are_refused(section: Any) -> None:
    text = read("2").text
    text.rope_parameters = {**text.rope_parameters, "mrope_section": section}
    with pytest.raises(RefusalError) as raised:
        Qwen2VLText.read_config(text, "native.Qwen2VLText")
    assert f"native.Qwen2VLText: config.json says mrope_section={section!r}" in str(raised.value)


def test_heads_of_another_size() -> None:
    """Hugging Face's decoder shares out the width of the stream, whatever the config says."""
    text = read("2").text
    text.head_dim = 64
    with pytest.raises(RefusalError, match="head_dim=64"):
        Qwen2VLText.read_config(text, "native.Qwen2VLText")
