"""Random LLaVAs with tokenizer and processor, images for them, and what Hugging Face computes of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mszoo.adapters.native.multimodal import TINY_CLIP

from .conftest import TINY
from .server import byte_tokenizer

IMAGE, VIDEO = "<image>", "<video>"
CLIP = dict(TINY_CLIP)
SIGLIP = CLIP | {"model_type": "siglip_vision_model", "hidden_act": "gelu_pytorch_tanh"}
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% else %}<image>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_llava(
    folder: Path,
    text: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] = CLIP,
    kind: str = "Llava",
    **fields: Any,
) -> Path:
    """Write a random LLaVA by published names; the same fields give the same weights.

    Args:
        folder: an empty one.
        text, vision: fields of the configs of the decoder and the tower.
        kind: ``Llava``, ``LlavaNext`` or ``LlavaOnevision``.
        fields: of config.json.
    """
    import torch

    import transformers
    from safetensors.torch import load_file, save_file

    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE, VIDEO]})
    tokenizer.chat_template = _TEMPLATE
    image, video = tokenizer.convert_tokens_to_ids([IMAGE, VIDEO])
    fields |= {"video_token_index": video} if kind == "LlavaOnevision" else {}
    config = getattr(transformers, f"{kind}Config")(
        text_config={"model_type": "llama"} | TINY | {"vocab_size": len(tokenizer)} | dict(text or {}),
        vision_config=dict(vision),
        image_token_index=image,
        **fields,
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.08)
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                parameter.mul_(2.0)  # sharp attention, or answers end in one letter for ever
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    named = {_published(name): weight for name, weight in weights.items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    size, is_clip = vision["image_size"], vision["model_type"] == CLIP["model_type"]
    square = {"height": size, "width": size}
    name = f"{kind if kind != 'Llava' else 'CLIP' if is_clip else 'Siglip'}ImageProcessor"
    options = {"size": {"shortest_edge": size}, "crop_size": square}
    if name.startswith(("Siglip", "LlavaOnevision")):
        options = {"size": square}
    if "image_grid_pinpoints" in fields:
        options["image_grid_pinpoints"] = fields["image_grid_pinpoints"]
    images = getattr(transformers, name)(**options)
    if kind == "LlavaOnevision":
        transformers.LlavaOnevisionProcessor(
            images,
            tokenizer,
            transformers.LlavaOnevisionVideoProcessor(size=square),
            num_image_tokens=(size // vision["patch_size"]) ** 2,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            chat_template=_TEMPLATE,
        ).save_pretrained(folder)
        return folder
    getattr(transformers, f"{kind}Processor")(
        images,
        tokenizer,
        patch_size=vision["patch_size"],
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(is_clip),
        chat_template=_TEMPLATE,
    ).save_pretrained(folder)
    return folder


def _published(name: str) -> str:
    """Return the name that published checkpoints have for a tensor as transformers 5 writes it."""
    tower, inner = "vision_tower.", "vision_tower.vision_model."
    return name if name.startswith(inner) else name.replace(tower, inner)


def pictures() -> list[Any]:
    """Return images of other sizes than the towers': noise, so that no two patches are alike."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    sizes = ((32, 32), (57, 40), (9, 70))
    return [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def requests(pictures: Sequence[Any]) -> list[dict[str, Any]]:
    """Return prompts with no image, with one, and with several between words."""
    first, second, third = pictures
    return [
        {"prompt": "Only words."},
        {"prompt": "<image>What is this?", "multi_modal_data": {"image": first}},
        {"prompt": "Look: <image> Is it odd?", "multi_modal_data": {"image": second}},
        {"prompt": "<image>then <image><image>?", "multi_modal_data": {"image": [third, first, second]}},
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
        given = {f"{name}s": one if isinstance(one, list) else [one] for name, one in data.items()}
        return self.processor(text=[request["prompt"]], **given, return_tensors="pt")

    def pixels(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the processor makes of a request's images alone."""
        inputs = dict(self.inputs(request))
        names = ("pixel_values", "image_sizes", "pixel_values_videos")
        return {name: inputs[name] for name in names if name in inputs}

    def features(self, request: Mapping[str, Any]) -> list[Any]:
        """Return the embeddings of a request's images: [tokens, hidden] each."""
        import torch

        config, pixels = self.model.config, self.pixels(request)
        of_videos = "pixel_values_videos" in pixels
        read = self.model.get_video_features if of_videos else self.model.get_image_features
        with torch.no_grad():
            found = read(
                **pixels,
                vision_feature_layer=config.vision_feature_layer,
                vision_feature_select_strategy=config.vision_feature_select_strategy,
            )
        return list(found.pooler_output)

    def logits(self, request: Mapping[str, Any], tokens: Sequence[int]) -> Any:
        """Return the logits behind each token of a request and its answer, the last one's aside."""
        import torch

        inputs = dict(self.inputs(request))
        ids = torch.cat([inputs.pop("input_ids"), torch.tensor([list(tokens)])], 1)
        inputs.pop("attention_mask", None)
        with torch.no_grad():
            return self.model(input_ids=ids, **inputs).logits[0][:-1]

    def answer(self, request: Mapping[str, Any], count: int) -> list[int]:
        """Return the greedy tokens behind a request."""
        inputs = self.inputs(request)
        tokens = self.model.generate(**inputs, do_sample=False, max_new_tokens=count, min_new_tokens=count)
        answer: list[int] = tokens[0, inputs["input_ids"].shape[1] :].tolist()
        return answer
