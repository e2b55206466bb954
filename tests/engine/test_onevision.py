"""LLaVA-OneVision: images in tiles, long ones shortened, and videos' frames, as Hugging Face computes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .images import computes_alike
from .llava_checkpoints import SIGLIP, Reference, make_llava, pictures, requests

ADAPTER = "native.LlavaOnevisionForConditionalGeneration"
_TILES = [[30, 60], [60, 30], [60, 60], [30, 90], [30, 360], [360, 30]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava(
        tmp_path_factory.mktemp("onevision"),
        text={"model_type": "qwen2", "tie_word_embeddings": True},
        vision=SIGLIP | {"vision_use_head": False},
        kind="LlavaOnevision",
        image_grid_pinpoints=_TILES,
    )


def asked() -> list[dict[str, Any]]:
    """Return prompts with images of odd sizes, one of more tiles than are kept, and videos of two lengths."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(1)
    long = Image.fromarray(random.integers(0, 256, (20, 300, 3), dtype=np.uint8))
    first, second = (random.integers(0, 256, (frames, 41, 30, 3), dtype=np.uint8) for frames in (3, 2))
    return [
        *requests(pictures())[:3],
        {"prompt": "<image>Long?", "multi_modal_data": {"image": long}},
        {"prompt": "<video>What moves?", "multi_modal_data": {"video": first}},
        {"prompt": "And <video>here?", "multi_modal_data": {"video": second}},
    ]


@pytest.mark.parametrize(
    ("kernels", "fused"), [("cpu", True), pytest.param("mindspore", False, marks=pytest.mark.long)]
)
def test_it_computes_what_hugging_face_does(
    kernels: str, fused: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSZOO_KERNELS", kernels)
    computes_alike(folder, Reference(folder), asked(), ADAPTER, kernels=kernels, fused=fused)
