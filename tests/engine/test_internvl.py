"""InternVL, in Hugging Face's layout and its publisher's: Hugging Face's float32 logits, vLLM's own tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mszoo.adapters import native
from mszoo.adapters.native.internvl_checkpoints import as_hugging_face, write_publishers
from mszoo.adapters.native.multimodal import TINY_INTERN_VIT

from .answers import run_all
from .conftest import TINY
from .images import ROOMY, answers_alike, computes_alike
from .llava_checkpoints import Reference, pictures
from .server import byte_tokenizer
from .test_llava import _write_lora

ADAPTER, PUBLISHERS = "native.InternVLForConditionalGeneration", "native.InternVLChatModel"
SIDE, SEQUENCE = TINY_INTERN_VIT["image_size"], 4
_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
#: The tower of the largest ones norms otherwise, and has no biases of queries, keys and values.
_LARGE = {"norm_type": "rms_norm", "use_qk_norm": True, "attention_bias": False}


def make_internvl(folder: Path, vision: Mapping[str, Any] | None = None, **text: Any) -> Path:
    """Write a random InternVL of Hugging Face's layout, with its tokenizer and processor."""
    import torch

    import transformers

    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": list(_TOKENS.values())})
    tokenizer.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, extra_special_tokens=_TOKENS)
    config = transformers.InternVLConfig(
        text_config={"model_type": "qwen2"}
        | TINY
        | {"hidden_size": 128, "vocab_size": len(tokenizer)}
        | text,
        vision_config={**TINY_INTERN_VIT, "attention_bias": True, **(vision or {})},
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=SEQUENCE,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = transformers.InternVLForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_scale = "lambda" in name or ("norm" in name and name.endswith("weight"))
            parameter.normal_(1.0 if is_scale else 0.0, 0.08)
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                parameter.mul_(2.0)  # sharp attention, or answers end in one letter for ever
    model.save_pretrained(folder)
    square = {"height": SIDE, "width": SIDE}
    transformers.InternVLProcessor(
        transformers.GotOcr2ImageProcessor(size=square, crop_to_patches=True, min_patches=1, max_patches=3),
        tokenizer,
        transformers.InternVLVideoProcessor(size=square),
        image_seq_length=SEQUENCE,
    ).save_pretrained(folder)
    return folder


def asked(image: str = "<IMG_CONTEXT>") -> list[dict[str, Any]]:
    """Return prompts with images of odd sizes, and with videos of two lengths.

    Args:
        image: what stands for one.
    """
    import numpy as np

    random = np.random.default_rng(1)
    first, second, third = pictures()
    moving, short = (random.integers(0, 256, (frames, 41, 30, 3), dtype=np.uint8) for frames in (3, 2))
    video = _TOKENS["video_token"]
    return [
        {"prompt": "Only words."},
        {"prompt": f"{image}What is this?", "multi_modal_data": {"image": first}},
        {"prompt": f"{image}then {image}{image}?", "multi_modal_data": {"image": [third, second, first]}},
        {"prompt": f"{video}What moves?", "multi_modal_data": {"video": moving}},
        {"prompt": f"And {video}here?", "multi_modal_data": {"video": short}},
    ]


class OfInternVL(Reference):
    """Hugging Face's model of a folder, in float32."""

    def inputs(self, request: Mapping[str, Any]) -> Any:
        """Return what the processor makes of a request; all frames of a video."""
        data = request.get("multi_modal_data", {})
        given = {f"{name}s": one if isinstance(one, list) else [one] for name, one in data.items()}
        return self.processor(text=[request["prompt"]], **given, return_tensors="pt")

    def pixels(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tiles of a request's images, or the frames of its video."""
        import torch

        (kind, items) = next(iter(request["multi_modal_data"].items()))
        token = _TOKENS["context_image_token" if kind == "image" else "video_token"]
        tiles = [
            self.processor(text=[token], **{f"{kind}s": [one]}, return_tensors="pt")["pixel_values"]
            for one in (items if isinstance(items, list) else [items])
        ]
        name = "pixel_values" if kind == "image" else "pixel_values_videos"
        return {name: torch.cat(tiles), f"{kind}_num_patches": torch.tensor([len(one) for one in tiles])}

    def features(self, request: Mapping[str, Any]) -> list[Any]:
        """Return the embeddings of a request's items: [tokens, hidden] each."""
        import torch

        pixels, counts = self.pixels(request).values()
        with torch.no_grad():
            found = self.model.get_image_features(
                pixel_values=pixels, vision_feature_layer=-1, vision_feature_select_strategy="default"
            ).pooler_output
        return [one.flatten(0, 1) for one in found.split(counts.tolist())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_internvl(tmp_path_factory.mktemp("internvl"))


@pytest.mark.parametrize(
    ("kernels", "fused"), [("cpu", True), pytest.param("mindspore", False, marks=pytest.mark.long)]
)
def test_it_computes_what_hugging_face_does(
    kernels: str, fused: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSZOO_KERNELS", kernels)
    computes_alike(folder, OfInternVL(folder), asked(), ADAPTER, kernels=kernels, fused=fused)


@pytest.mark.long
def test_the_tower_of_the_largest(tmp_path: Path) -> None:
    folder = make_internvl(tmp_path / "large", _LARGE, model_type="qwen3")
    computes_alike(folder, OfInternVL(folder), asked(), ADAPTER, kernels="cpu", fused=True)


def make_publishers(folder: Path, **fields: Any) -> Path:
    """Write a random InternVL of its publisher's layout; with the decoder's weights left out, nothing else."""
    import json

    from safetensors.torch import load_file

    (record,) = (one for one in native.mszoo_model_adapters() if one.architecture == "InternVLChatModel")
    config = json.loads(json.dumps(dict(record.example_config) | fields))
    there = make_internvl(folder / "hf")
    for file in there.iterdir():
        if file.name.startswith(("tokenizer", "special_tokens", "chat_template")):
            (folder / file.name).write_bytes(file.read_bytes())
    config["llm_config"] |= json.loads((there / "config.json").read_text(encoding="utf-8"))["text_config"]
    expected = as_hugging_face(config, 0)["vision_config"]
    found = json.loads((there / "config.json").read_text(encoding="utf-8"))["vision_config"]
    assert all(found[name] in (value, [value, value]) for name, value in expected.items() if name in found)
    write_publishers(folder, config, load_file(there / "model.safetensors"))
    return folder


@pytest.mark.long
@pytest.mark.parametrize("fields", [{}, {"ps_version": "v1"}], ids=["v2", "v1"])
def test_the_publishers_layout(fields: dict[str, Any], tmp_path: Path) -> None:
    """vLLM's own model answers the same, by its own processor; videos need a token that few tokenizers have."""
    folder = make_publishers(tmp_path / "chat", **fields)
    workplace = tmp_path / "work"
    workplace.mkdir()
    answers_alike(folder, asked("<image>")[:3], PUBLISHERS, workplace, trust_remote_code=True)


@pytest.mark.long
def test_it_answers_as_vllm_does(folder: Path, tmp_path: Path) -> None:
    answers_alike(folder, asked(), ADAPTER, tmp_path)


@pytest.mark.long
def test_lora_and_two_ranks(folder: Path, tmp_path: Path) -> None:
    """Hugging Face's greedy tokens, also with an adapter's products merged into its weights."""
    from safetensors.torch import load_file

    image = tmp_path / "image.png"
    pictures()[2].save(image)
    prompts = ("Only words.", "<IMG_CONTEXT>What is this?")
    asked_of_us = [{"prompt": prompts[0], "images": []}, {"prompt": prompts[1], "images": [str(image)]}]
    requests = [{"prompt": prompts[0]}, {"prompt": prompts[1], "multi_modal_data": {"image": pictures()[2]}}]
    job = {"model": str(folder), "requests": asked_of_us}
    lora = _write_lora(tmp_path / "lora", folder)
    adapted = {"lora": [str(lora)] * 2, "options": ROOMY | {"enable_lora": True, "max_lora_rank": 8}}
    found = run_all(
        {"lora": job | adapted, "two": job | {"options": ROOMY | {"tensor_parallel_size": 2}}},
        tmp_path / "ours.json",
        VLLM_CPU_OMP_THREADS_BIND="0|1",
    )
    assert {worker["adapter"] for one in found.values() for worker in one["workers"]} == {ADAPTER}
    assert len(found["two"]["workers"]) == 2
    reference = OfInternVL(folder)
    plain = [reference.answer(request, 8) for request in requests]
    assert found["two"]["answers"] == plain
    tensors = load_file(lora / "adapter_model.safetensors")
    for name in [name for name in tensors if ".lora_A." in name]:
        path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        weight = reference.model.get_submodule(path).weight.data
        weight += 2 * tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
    assert found["lora"]["answers"] == [reference.answer(request, 8) for request in requests] != plain
