"""MindSpore One's models that read images: Hugging Face's features and logits, and vLLM's own greedy tokens."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import llava_checkpoints as llava
from . import qwen_vl_checkpoints as qwen
from .conftest import RAW_LOGITS, assert_mindspore, running_engine, served_by
from .images import TOLERANCE, relative

try:
    importlib.metadata.version("mindone")
except importlib.metadata.PackageNotFoundError:
    pytest.skip("mindone is not installed: make suites", allow_module_level=True)

KINDS = ("Llava", "Qwen2VL", "Qwen2_5_VL")
ADAPTER = {kind: f"mindone.{kind}ForConditionalGeneration" for kind in KINDS}


def options_of(kind: str) -> dict[str, Any]:
    """Return options of an engine for the requests of a kind."""
    roomy = {"skip_tokenizer_init": False, "max_model_len": 512, "max_num_batched_tokens": 512}
    if kind == "Llava":
        return roomy | {"limit_mm_per_prompt": {"image": 3}}
    limits = {"image": 3, "video": 1}
    return roomy | {"limit_mm_per_prompt": limits, "mm_processor_kwargs": {"do_sample_frames": False}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a maker of the kinds' checkpoints."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            made[kind] = llava.make_llava(folder) if kind == "Llava" else qwen.make_qwen_vl(folder, kind)
        return made[kind]

    return make


@pytest.mark.parametrize("kind", ["Llava", "Qwen2_5_VL", pytest.param("Qwen2VL", marks=pytest.mark.long)])
def test_it_computes_what_hugging_face_does(
    kind: str, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features of images of odd sizes and of a video, logits in chunks across them, and the cache's."""
    import torch

    from vllm import SamplingParams

    monkeypatch.setenv("MSZOO_PREFER", "mindone")
    folder = checkpoint(kind)
    reference: Any
    if kind == "Llava":
        reference, asked = llava.Reference(folder), llava.requests(llava.pictures())
        items_of = reference.pixels
    else:
        reference, asked = qwen.reference_of(folder, kind), qwen.requests(qwen.pictures(), kind)
        items_of = reference.items
    sampling = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, logprobs=-1, prompt_logprobs=-1)
    greedy = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    options = options_of(kind) | {"max_num_batched_tokens": 64, "block_size": 32}
    with running_engine(folder, **options, **RAW_LOGITS) as llm:
        for request in asked[3:]:
            items = items_of(request)
            with torch.inference_mode():
                (features,) = llm.apply_model(lambda model, items=items: model.embed_multimodal(**items))
            for found, expected in zip(features, reference.features(request), strict=True):
                assert relative(found, expected) <= TOLERANCE
        outputs = llm.generate(asked, sampling, use_tqdm=False)
        again = [output.outputs[0].token_ids for output in llm.generate(asked, greedy, use_tqdm=False)]
        assert assert_mindspore(llm, ADAPTER[kind], "cpu") > 0
        (towers,) = llm.apply_model(_towers)
    assert towers and all(name.startswith("mindone.transformers.models.") for name in towers)
    for request, output in zip(asked, outputs, strict=True):
        completion = output.outputs[0]
        rows = [row for row in output.prompt_logprobs if row] + list(completion.logprobs)
        logits = torch.tensor([[row[token].logprob for token in range(len(row))] for row in rows])
        expected = reference.logits(request, list(completion.token_ids))
        assert relative(logits, expected) <= TOLERANCE
    assert again == [output.outputs[0].token_ids for output in outputs]


def _towers(model: Any) -> list[str]:
    """Return of which modules the networks are that read images; inside the worker."""
    parts = ("vision_tower", "multi_modal_projector", "visual")
    network = model.network
    found = [getattr(network, part) for part in parts if hasattr(network, part)]
    return [type(part.network).__module__ for part in found]
