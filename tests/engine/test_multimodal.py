"""vLLM's own multimodal models start in the environment that `make env` creates, and look at the image."""

from __future__ import annotations

from pathlib import Path

import pytest

from .answers import run
from .conftest import TINY
from .server import byte_tokenizer

_SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_PROMPT = "<|vision_start|><|image_pad|><|vision_end|>What is this?"


def make_qwen2_vl(folder: Path) -> Path:
    """Write a random Qwen2-VL with its tokenizer and processor."""
    import torch

    from transformers import (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(_SPECIAL)})
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(_SPECIAL))
    hidden = 128
    text = TINY | {"hidden_size": hidden, "vocab_size": len(tokenizer)}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
    config = Qwen2VLConfig(
        text_config=text,
        vision_config={"depth": 1, "embed_dim": 64, "num_heads": 2, "hidden_size": hidden, "mlp_ratio": 2},
        vision_start_token_id=start,
        vision_end_token_id=end,
        image_token_id=image,
        video_token_id=video,
    )
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.08)
    model.save_pretrained(folder)
    images, videos = Qwen2VLImageProcessor(), Qwen2VLVideoProcessor()
    Qwen2VLProcessor(images, tokenizer, videos, chat_template=tokenizer.chat_template).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen2_vl(tmp_path_factory.mktemp("qwen2_vl"))


def test_it_answers_about_the_image(folder: Path, tmp_path: Path) -> None:
    """Its tokens are Hugging Face's, and another image gives others."""
    import torch

    from PIL import Image
    from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

    images = [Image.new("RGB", (56, 56), color) for color in ("red", "blue")]
    images[1].putpixel((20, 20), (255, 255, 255))
    requests = []
    for index, image in enumerate(images):
        image.save(tmp_path / f"{index}.png")
        requests.append({"prompt": _PROMPT, "images": [str(tmp_path / f"{index}.png")]})
    options = {"skip_tokenizer_init": False, "enforce_eager": True, "max_model_len": 256}
    options["limit_mm_per_prompt"] = {"image": 1, "video": 0}
    job = {"model": str(folder), "requests": requests, "max_tokens": 6, "options": options}
    found = run(job, tmp_path / "result.json", MSZOO_DISABLE="1")
    assert found["workers"][0]["adapter"] is None
    answers = found["answers"]
    processor = AutoProcessor.from_pretrained(folder)
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    expected = []
    for image in images:
        inputs = processor(text=[_PROMPT], images=[image], return_tensors="pt")
        with torch.no_grad():
            tokens = model.generate(**inputs, do_sample=False, max_new_tokens=6, min_new_tokens=6)
        expected.append(tokens[0, inputs["input_ids"].shape[1] :].tolist())
    assert answers == expected
    assert answers[0] != answers[1]
