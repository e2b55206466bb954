"""The native models that read images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mszoo.adapters.decoder import FUSED, FUSED_MLP, TINY
from mszoo.adapters.native.experts import GROUPED
from mszoo.adapters.native.internvl_checkpoints import AUTO_MAP
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
TINY_SIGLIP: Mapping[str, Any] = {
    **TINY_CLIP,
    "model_type": "siglip_vision_model",
    "hidden_act": "gelu_pytorch_tanh",
    "vision_use_head": False,
}


#: A tower on patches of six by six pixels and two frames, of which two by two become an embedding.
TINY_QWEN_VISION: Mapping[str, Any] = {
    "depth": 3,
    "num_heads": 2,
    "in_channels": 3,
    "patch_size": 6,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}


def _llava(
    architecture: str, module: str, modalities: tuple[str, ...] = ("image",), **config: Any
) -> ModelAdapter:
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
        modalities=modalities,
    )


def _idefics3(architecture: str, **config: Any) -> ModelAdapter:
    """Return the record of an Idefics3, with the fields of a tiny config.json beside those that all have."""
    kept = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
    vision = {name: TINY_SIGLIP[name] for name in kept} | {"image_size": 32, "patch_size": 8}
    return ModelAdapter(
        architecture,
        f"mszoo.models.idefics3:{architecture}",
        # No LoRA: adapters call the decoder's layers otherwise than the model's parts are called.
        capabilities=frozenset({Capability.TENSOR_PARALLEL}),
        devices=("cpu",),
        packed_modules_mapping=FUSED,
        example_config={
            "architectures": [architecture],
            "image_token_id": 255,
            "scale_factor": 2,
            "pad_token_id": 0,
            "text_config": {"model_type": "llama", **TINY},
            "vision_config": vision,
            **config,
        },
        modalities=("image",),
    )


#: Of the tower of an InternVL, as Hugging Face has it and as its publisher has.
TINY_INTERN_VIT: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 6,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "norm_type": "layer_norm",
}


def _internvl(
    architecture: str, vision: Mapping[str, Any], text: Mapping[str, Any], **config: Any
) -> ModelAdapter:
    """Return the record of an InternVL, with the fields of a tiny config.json beside those that both have.

    Args:
        architecture: the name in config.json, and of its class.
        vision: of the tower's config, beside what both have.
        text: where the decoder's config is.
        config: of the top.
    """
    return ModelAdapter(
        architecture,
        f"mszoo.models.internvl:{architecture}",
        capabilities=frozenset({Capability.LORA, Capability.TENSOR_PARALLEL}),
        devices=("cpu",),  # nobody has tried its tower beside vllm-ascend
        packed_modules_mapping=FUSED,
        example_config={
            "architectures": [architecture],
            "downsample_ratio": 0.5,
            "vision_config": {**TINY_INTERN_VIT, **vision},
            **text,
            **config,
        },
        modalities=("image", "video"),
    )


#: Beside the others, of a GLM-4.1V: of its tower, its decoder, and the top.
TINY_GLM_VISION: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "out_hidden_size": 128,
    "image_size": 30,
}
GLM_TOKENS = (
    "image_start_token_id",
    "image_end_token_id",
    "video_start_token_id",
    "video_end_token_id",
    "video_token_id",
    "image_token_id",
)
TINY_GLM_TEXT: Mapping[str, Any] = {
    **TINY,
    "hidden_size": 128,
    "attention_bias": True,  # vLLM's own decoder asks
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 3, 3],
    },
}
#: Beside the others, of the tower of a Qwen3-VL.
TINY_DEEPSTACK: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "out_hidden_size": 128,
    "num_position_embeddings": 25,
    "deepstack_visual_indexes": [0, 2],
}
#: Of its decoder, where it has experts.
TINY_EXPERTS: Mapping[str, Any] = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32}


def _of_any_size(
    architecture: str,
    module: str,
    text: Mapping[str, Any],
    vision: Mapping[str, Any],
    fused: Mapping[str, tuple[str, ...]] = FUSED,
    **config: Any,
) -> ModelAdapter:
    """Return the record of a model for images and videos of any size.

    Args:
        architecture: the name in config.json, and of its class.
        module: of mszoo.models, that has the class.
        text: of the decoder's tiny config; one with experts takes no LoRA.
        vision: of the tower's, beside what all have.
        fused: what vLLM's fused layers hold of its checkpoints' modules.
        config: of a tiny config.json.
    """
    inherited = {Capability.TENSOR_PARALLEL}
    if "num_experts_per_tok" not in text:
        inherited.add(Capability.LORA)
    return ModelAdapter(
        architecture,
        f"mszoo.models.{module}:{architecture}",
        capabilities=frozenset(inherited),
        devices=("cpu",),  # nobody has tried its tower beside vllm-ascend
        packed_modules_mapping=fused,
        example_config={
            "architectures": [architecture],
            "text_config": dict(text),
            "vision_config": {**TINY_QWEN_VISION, **vision},
            **config,
        },
        modalities=("image", "video"),
    )


def _glm(
    architecture: str, text: Mapping[str, Any], fused: Mapping[str, tuple[str, ...]], **config: Any
) -> ModelAdapter:
    """Return the record of a GLM-4.1V or later; the arguments are as of :func:`_of_any_size`."""
    tokens: dict[str, Any] = {name: 250 + index for index, name in enumerate(GLM_TOKENS)}
    return _of_any_size(architecture, "glm4v", text, TINY_GLM_VISION, fused, **tokens, **config)


def _qwen(
    architecture: str,
    module: str,
    vision: Mapping[str, Any],
    experts: Mapping[str, Any] | None = None,
    **config: Any,
) -> ModelAdapter:
    """Return the record of a Qwen-VL, with the fields of a tiny config.json beside those that all have."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
    text = {**TINY, "hidden_size": 128, "rope_parameters": rope, **(experts or {})}
    if architecture.startswith("Qwen3"):
        rope["mrope_section"] = [6, 5, 5]
    else:
        del text["head_dim"]  # as wide as the stream shared out, whatever it says
    names = ("vision_start_token_id", "vision_end_token_id", "video_token_id", "image_token_id")
    tokens: dict[str, Any] = {name: 252 + index for index, name in enumerate(names)}
    return _of_any_size(architecture, module, text, vision, **tokens, **config)


RECORDS = (
    _glm(
        "Glm4vForConditionalGeneration",
        TINY_GLM_TEXT,
        {**FUSED_MLP, "gate_up": FUSED["gate_up_proj"]},
        model_type="glm4v",
    ),
    _glm(
        "Glm4vMoeForConditionalGeneration",
        {**TINY_GLM_TEXT, **GROUPED, "first_k_dense_replace": 1},
        FUSED,
        model_type="glm4v_moe",
    ),
    _idefics3("Idefics3ForConditionalGeneration", model_type="idefics3"),
    _idefics3("SmolVLMForConditionalGeneration", model_type="smolvlm"),
    _internvl(
        "InternVLForConditionalGeneration",
        {"model_type": "internvl_vision", "attention_bias": True},
        {"text_config": {"model_type": "qwen2", **TINY, "hidden_size": 128}},
        model_type="internvl",
        image_token_id=255,
        image_seq_length=4,
        tie_word_embeddings=False,
    ),
    _internvl(
        "InternVLChatModel",
        {"qkv_bias": True, "qk_normalization": False, "initializer_factor": 1.0},
        {"llm_config": {"model_type": "qwen2", **TINY, "hidden_size": 128}},
        model_type="internvl_chat",
        auto_map=dict(AUTO_MAP),
        select_layer=-1,
        ps_version="v2",
        force_image_size=TINY_INTERN_VIT["image_size"],
        dynamic_image_size=True,
        use_thumbnail=True,
        min_dynamic_patch=1,
        max_dynamic_patch=3,
        template="internvl2_5",
    ),
    _llava("LlavaForConditionalGeneration", "llava", model_type="llava"),
    _llava(
        "LlavaNextForConditionalGeneration",
        "llava_next",
        model_type="llava_next",
        image_grid_pinpoints=[[30, 60], [60, 30], [60, 60]],
    ),
    _llava(
        "LlavaOnevisionForConditionalGeneration",
        "onevision",
        ("image", "video"),
        model_type="llava_onevision",
        video_token_index=254,
        image_grid_pinpoints=[[30, 60], [60, 30], [60, 60], [30, 360]],
        text_config={"model_type": "qwen2", **TINY},
        vision_config=dict(TINY_SIGLIP),
    ),
    _qwen(
        "Qwen2VLForConditionalGeneration",
        "qwen2_vl",
        {"embed_dim": 64, "mlp_ratio": 2, "hidden_size": 128},
        model_type="qwen2_vl",
    ),
    _qwen(
        "Qwen2_5_VLForConditionalGeneration",
        "qwen2_5_vl",
        {
            "hidden_size": 64,
            "intermediate_size": 96,
            "out_hidden_size": 128,
            "window_size": 24,
            "fullatt_block_indexes": [1],
        },
        model_type="qwen2_5_vl",
    ),
    _qwen(
        "Qwen3VLForConditionalGeneration",
        "qwen3_vl",
        TINY_DEEPSTACK,
        model_type="qwen3_vl",
    ),
    _qwen(
        "Qwen3VLMoeForConditionalGeneration",
        "qwen3_vl",
        TINY_DEEPSTACK,
        {**TINY_EXPERTS, "decoder_sparse_step": 2},
        model_type="qwen3_vl_moe",
    ),
)
