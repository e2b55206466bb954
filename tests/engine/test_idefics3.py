"""Idefics3 and SmolVLM: what Hugging Face computes in float32, and vLLM's own greedy tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mszoo.adapters.native.multimodal import TINY_SIGLIP

from .conftest import TINY
from .images import answers_alike, computes_alike
from .llava_checkpoints import Reference, pictures, requests
from .server import byte_tokenizer

SIDE, PATCH, FACTOR = 30, 5, 2
_TOKENS = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
_TILES = tuple(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5))


def make_idefics3(folder: Path, kind: str = "Idefics3", **fields: Any) -> Path:
    """Write a random Idefics3 or SmolVLM, with its tokenizer and processor."""
    import torch

    import transformers

    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [*_TOKENS, *_TILES]})
    _, image, *_ = tokenizer.convert_tokens_to_ids(list(_TOKENS))
    vision = {
        name: value for name, value in TINY_SIGLIP.items() if name not in ("model_type", "vision_use_head")
    }
    config = getattr(transformers, f"{kind}Config")(
        text_config={"model_type": "llama"} | TINY | {"vocab_size": len(tokenizer)},
        vision_config=vision | {"image_size": SIDE, "patch_size": PATCH},
        image_token_id=image,
        scale_factor=FACTOR,
        pad_token_id=0,
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
    images = getattr(transformers, f"{kind}ImageProcessor")(
        size={"longest_edge": 3 * SIDE}, max_image_size={"longest_edge": SIDE}
    )
    others = {}
    if kind == "SmolVLM":
        others["video_processor"] = transformers.SmolVLMVideoProcessor(
            size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}
        )
    getattr(transformers, f"{kind}Processor")(
        images, tokenizer, image_seq_len=(SIDE // PATCH // FACTOR) ** 2, **others
    ).save_pretrained(folder)
    return folder


class OfIdefics3(Reference):
    """Hugging Face's model of a folder, in float32."""

    def inputs(self, request: Mapping[str, Any]) -> Any:
        """Return what the processor makes of a request."""
        found = super().inputs(request)
        found.pop("rows", None), found.pop("cols", None)
        return found

    def pixels(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tiles of a request's images, without those that fill up, as vLLM hands them on."""
        import torch

        tiles, counts = [], []
        for image in _listed(request["multi_modal_data"]["image"]):
            inputs = self.processor(text=["<image>"], images=[image], return_tensors="pt")
            tiles.append(inputs["pixel_values"][0])
            counts.append(len(tiles[-1]))
        return {"pixel_values": torch.cat(tiles), "num_patches": torch.tensor(counts)}

    def features(self, request: Mapping[str, Any]) -> list[Any]:
        """Return the embeddings of a request's images: [tokens, hidden] each."""
        import torch

        pixels = self.pixels(request)
        with torch.no_grad():
            found = self.model.get_image_features(pixel_values=pixels["pixel_values"][None]).pooler_output
        return [one.flatten(0, 1) for one in found.split(pixels["num_patches"].tolist())]


def _listed(images: Any) -> list[Any]:
    return images if isinstance(images, list) else [images]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_idefics3(tmp_path_factory.mktemp("idefics3"))


ADAPTER = "native.Idefics3ForConditionalGeneration"


@pytest.mark.parametrize(
    ("kernels", "fused"), [("cpu", True), pytest.param("mindspore", False, marks=pytest.mark.long)]
)
def test_it_computes_what_hugging_face_does(
    kernels: str, fused: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSZOO_KERNELS", kernels)
    asked = requests(pictures())[:3]
    computes_alike(folder, OfIdefics3(folder), asked, ADAPTER, kernels=kernels, fused=fused)


def test_it_answers_as_vllm_does(folder: Path, tmp_path: Path) -> None:
    answers_alike(folder, requests(pictures()), ADAPTER, tmp_path)


@pytest.mark.long
def test_smolvlm(tmp_path: Path) -> None:
    """Its processor needs a package that vLLM doesn't bring."""
    pytest.importorskip("num2words")
    folder = make_idefics3(tmp_path / "smolvlm", "SmolVLM")
    answers_alike(folder, requests(pictures()), "native.SmolVLMForConditionalGeneration", tmp_path)
