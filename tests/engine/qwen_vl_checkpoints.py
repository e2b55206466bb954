"""Random Qwen-VLs and GLM-4.1Vs with tokenizer and processor, images and videos, and what Hugging Face computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from mszoo.adapters.native.experts import GROUPED
from mszoo.adapters.native.multimodal import (
    TINY_DEEPSTACK,
    TINY_EXPERTS,
    TINY_GLM_TEXT,
    TINY_GLM_VISION,
    TINY_QWEN_VISION,
)

from .conftest import TINY
from .server import byte_tokenizer

#: What stands in a prompt for an image and for a video.
Marks: TypeAlias = tuple[str, str]
MARKS: Marks = ("<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>")
MARKS_OF_GLM: Marks = (
    "<|begin_of_image|><|image|><|end_of_image|>",
    "<|begin_of_video|><|video|><|end_of_video|>",
)
#: Special tokens, by their names in config.json.
TOKENS: Mapping[str, str] = {
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
}
TOKENS_OF_GLM: Mapping[str, str] = {
    f"{kind}_{name}_id": token
    for kind in ("image", "video")
    for name, token in {
        "start_token": f"<|begin_of_{kind}|>",
        "end_token": f"<|end_of_{kind}|>",
        "token": f"<|{kind}|>",
    }.items()
}
FRAMES = 5
#: What is said of a video. It is short: behind one that lasts longer than it is wide, transformers goes on from its
#: width and vLLM from its end.
ABOUT_FILM: Mapping[str, Any] = {
    "total_num_frames": FRAMES,
    "fps": 2.5,
    "duration": FRAMES / 2.5,
    "frames_indices": list(range(FRAMES)),
    "video_backend": "none",
}
#: By kind of model, of the tower; the decoder is 128 wide.
VISION: Mapping[str, Mapping[str, Any]] = {
    "Qwen2VL": {"embed_dim": 64, "mlp_ratio": 2, "hidden_size": 128},
    "Qwen2_5_VL": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "out_hidden_size": 128,
        "window_size": 24,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
    },
    "Qwen3VL": TINY_DEEPSTACK,
    "Qwen3VLMoe": TINY_DEEPSTACK,
    "Glm4v": TINY_GLM_VISION,
    "Glm4vMoe": TINY_GLM_VISION,
}
ROPE: Mapping[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% elif 'video' in part.type %}"
    "VIDEO{% else %}IMAGE{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def marks_of(kind: str) -> Marks:
    """Return what stands in a prompt for an image and for a video."""
    return MARKS_OF_GLM if kind.startswith("Glm4v") else MARKS


def make_qwen_vl(folder: Path, kind: str, text: Mapping[str, Any] | None = None, **fields: Any) -> Path:
    """Write a random Qwen-VL or GLM-4.1V; the same fields give the same weights.

    Args:
        folder: an empty one.
        kind: a key of :data:`VISION`.
        text: fields of the decoder's config.
        fields: of config.json.
    """
    import torch

    import transformers

    tokenizer = byte_tokenizer()
    tokens = TOKENS_OF_GLM if kind.startswith("Glm4v") else TOKENS
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens.values())})
    tokenizer.chat_template = _TEMPLATE.replace("IMAGE", marks_of(kind)[0]).replace(
        "VIDEO", marks_of(kind)[1]
    )
    decoder = {**TINY, "hidden_size": 128, "rope_parameters": dict(ROPE)}
    if kind.startswith("Glm4v"):
        decoder = {**TINY_GLM_TEXT, "num_hidden_layers": TINY["num_hidden_layers"]}
    if kind == "Glm4vMoe":
        decoder |= GROUPED | {"first_k_dense_replace": 1, "use_qk_norm": False}  # the latter for vLLM's own
    if kind == "Qwen3VLMoe":
        decoder |= TINY_EXPERTS  # in all layers: deepstack adds behind two
    if kind in ("Qwen2VL", "Qwen2_5_VL"):
        del decoder["head_dim"]  # as wide as the stream shared out, whatever it says
    vision = TINY_QWEN_VISION | VISION[kind] | fields.pop("vision", {})
    config = getattr(transformers, f"{kind}Config")(
        text_config=decoder | {"vocab_size": len(tokenizer)} | dict(text or {}),
        vision_config=vision,
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()},
        **fields,
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = any(part in name for part in ("norm", "ln_q")) and name.endswith("weight")
            parameter.normal_(1.0 if is_norm else 0.0, 0.08)
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                parameter.mul_(2.0)  # sharp attention, or answers end in one letter for ever
    model.save_pretrained(folder)
    if kind == "Qwen3VLMoe":
        _turn_experts(folder / "model.safetensors")
    processor_of(kind, vision, tokenizer).save_pretrained(folder)
    return folder


def _turn_experts(file: Path) -> None:
    """Write the tensors of all experts as published checkpoints have them, and transformers saves them no more."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    experts = [name for name in tensors if ".experts." in name]
    assert experts
    for name in experts:
        tensors[name] = tensors[name].transpose(1, 2).contiguous()
    save_file(tensors, file, metadata={"format": "pt"})


def processor_of(kind: str, vision: Mapping[str, Any], tokenizer: Any) -> Any:
    """Return the processor of a tower."""
    import transformers

    side = vision["patch_size"] * vision["spatial_merge_size"]
    sizes = {"patch_size": vision["patch_size"], "merge_size": vision["spatial_merge_size"]}
    sizes["size"] = {"shortest_edge": 4 * side**2, "longest_edge": 24 * side**2}
    if kind.startswith("Glm4v"):  # it counts the pixels of both frames of an image's patches
        sizes["size"] = {name: 2 * pixels for name, pixels in sizes["size"].items()}
    images = "Glm4v" if kind.startswith("Glm4v") else "Qwen2VL"
    videos = "Glm4v" if kind.startswith("Glm4v") else f"Qwen{kind[4]}VL"
    return getattr(transformers, f"{kind.removesuffix('Moe')}Processor")(
        getattr(transformers, f"{images}ImageProcessor")(**sizes),
        tokenizer,
        getattr(transformers, f"{videos}VideoProcessor")(**sizes),
        chat_template=tokenizer.chat_template,
    )


def pictures() -> list[Any]:
    """Return images whose sizes don't divide: noise, so that no two patches are alike."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    sizes = ((40, 40), (70, 31), (25, 80))
    return [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def film() -> Any:
    """Return a video: frames [T, height, width, 3]."""
    import numpy as np

    return np.random.default_rng(1).integers(0, 256, (FRAMES, 31, 44, 3), dtype=np.uint8)


def requests(pictures: Sequence[Any], kind: str) -> list[dict[str, Any]]:
    """Return prompts with no image, with one, with several between words, and with a video and an image."""
    first, second, third = pictures
    image, video = marks_of(kind)
    with_video = {"image": [second], "video": [(film(), ABOUT_FILM | {"do_sample_frames": False})]}
    return [
        {"prompt": "Only words."},
        {"prompt": f"{image}What is this?", "multi_modal_data": {"image": first}},
        {"prompt": f"Look: {image} Is it odd?", "multi_modal_data": {"image": second}},
        {"prompt": f"{image}then {image}{image}?", "multi_modal_data": {"image": [third, first, second]}},
        {"prompt": f"See {video} and {image}?", "multi_modal_data": with_video},
    ]


class Reference:
    """Hugging Face's model of a folder, in float32."""

    def __init__(self, folder: Path) -> None:
        import torch

        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )

    def inputs(self, request: Mapping[str, Any]) -> Any:
        """Return what the processor makes of a request."""
        data = request.get("multi_modal_data", {})
        items = {f"{name}s": value if isinstance(value, list) else [value] for name, value in data.items()}
        if "videos" in items:
            items["videos"] = [frames for frames, _ in items["videos"]]
            items |= {"do_sample_frames": False, "video_metadata": [dict(ABOUT_FILM)]}
        return dict(self.processor(text=[request["prompt"]], return_tensors="pt", **items))

    def items(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the processor makes of a request's images and videos alone."""
        wanted = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")
        inputs = self.inputs(request)
        return {name: inputs[name] for name in wanted if name in inputs}

    def features(self, request: Mapping[str, Any]) -> list[Any]:
        """Return the embeddings of a request's images, then its videos: [tokens, hidden] each."""
        import torch

        inputs, found = self.items(request), []
        with torch.no_grad():
            if "pixel_values" in inputs:
                images = inputs["pixel_values"], inputs["image_grid_thw"]
                found += _embeddings(self.model.get_image_features(*images))
            if "pixel_values_videos" in inputs:
                videos = inputs["pixel_values_videos"], inputs["video_grid_thw"]
                found += _embeddings(self.model.get_video_features(*videos))
        return found

    def logits(self, request: Mapping[str, Any], tokens: Sequence[int]) -> Any:
        """Return the logits behind each token of a request and its answer, the last one's aside."""
        import torch

        inputs = self.inputs(request)
        answer = torch.tensor([list(tokens)])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], 1)
        for name in ("attention_mask", "mm_token_type_ids"):
            if name in inputs:
                more = torch.full_like(answer, int(name == "attention_mask"))
                inputs[name] = torch.cat([inputs[name], more], 1)
        with torch.no_grad():
            return self.of_inputs(inputs)[:-1]

    def of_inputs(self, inputs: dict[str, Any]) -> Any:
        """Return the logits of all tokens [T, vocab]."""
        return self.model(**inputs).logits[0]

    def answer(self, request: Mapping[str, Any], count: int) -> list[int]:
        """Return the greedy tokens behind a request, each computed from all before it.

        ``generate`` of Qwen2-VL in transformers 5.19 gives others than these logits, behind some images.
        """
        tokens: list[int] = []
        for _ in range(count):
            tokens.append(int(self.logits(request, [*tokens, 0])[-1].argmax()))
        return tokens


class GlmReference(Reference):
    """The same of a GLM-4.1V, whose own ``forward`` takes no prompt with both images and videos."""

    def of_inputs(self, inputs: dict[str, Any]) -> Any:
        """Return the logits of all tokens [T, vocab]."""
        import torch

        ids, kinds, model = inputs["input_ids"], inputs["mm_token_type_ids"], self.model.model
        grids = {name: inputs.get(name) for name in ("image_grid_thw", "video_grid_thw")}
        embeddings = self.model.get_input_embeddings()(ids)
        if "pixel_values" in inputs:
            found = model.get_image_features(inputs["pixel_values"], grids["image_grid_thw"])
            embeddings[kinds == 1] = torch.cat(found.pooler_output)
        if "pixel_values_videos" in inputs:
            found = model.get_video_features(inputs["pixel_values_videos"], grids["video_grid_thw"])
            embeddings[kinds == 2] = torch.cat(found.pooler_output)
        positions, _ = model.get_rope_index(ids, kinds, **grids)
        hidden = model.language_model(inputs_embeds=embeddings, position_ids=positions).last_hidden_state
        return self.model.lm_head(hidden)[0]


def reference_of(folder: Path, kind: str) -> Reference:
    """Return Hugging Face's model of a folder."""
    return GlmReference(folder) if kind.startswith("Glm4v") else Reference(folder)


def _embeddings(found: Any) -> list[Any]:
    """Return each item's embeddings, with what deepstack adds beside them."""
    import torch

    levels = getattr(found, "deepstack_features", None) or ()
    return [torch.cat(parts, 1) for parts in zip(found.pooler_output, *levels, strict=True)]
