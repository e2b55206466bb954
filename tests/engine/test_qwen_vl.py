"""Qwen-VLs: features and logits of Hugging Face in float32, and vLLM's own greedy tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import RAW_LOGITS, assert_mindspore, running_engine
from .qwen_vl_checkpoints import Reference, make_qwen_vl, pictures, requests, with_video

TOLERANCE = 2e-5  # of the largest
ROOMY = {
    "skip_tokenizer_init": False,
    "limit_mm_per_prompt": {"image": 3, "video": 1},
    "mm_processor_kwargs": {"do_sample_frames": False},
    "max_model_len": 512,
    "max_num_batched_tokens": 512,
}
ADAPTER = {kind: f"native.{kind}ForConditionalGeneration" for kind in ("Qwen2VL", "Qwen2_5_VL")}
RUNS = [
    ("cpu", "compiled", "Qwen2VL"),
    ("mindspore", "compiled", "Qwen2VL"),
    ("cpu", "compiled", "Qwen2_5_VL"),
    ("mindspore", "eager", "Qwen2_5_VL"),
]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a maker of the kinds' checkpoints."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = make_qwen_vl(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return make


def runs_fused(model: Any) -> bool:
    """Return whether the decoder runs as one graph, or its layers as one call each; inside the worker."""
    decoder = model.network.language_model.decoder
    return decoder.graph.runs or all(layer.compiled.runs for layer in decoder.decoder_layers)


def relative(found: Any, expected: Any) -> float:
    """Return the largest difference, relative to the largest value."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("kernel_set", "mode", "kind"), RUNS)
def test_it_computes_what_hugging_face_does(
    kernel_set: str, mode: str, kind: str, qwen: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features of images of odd sizes and of a video, and logits of prompts with and without them."""
    import torch

    from vllm import SamplingParams

    monkeypatch.setenv("MSZOO_KERNELS", kernel_set)
    folder = qwen(kind)
    reference, asked = Reference(folder), [*requests(pictures()), with_video(pictures()[1])]
    sampling = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, logprobs=-1, prompt_logprobs=-1)
    with running_engine(folder, enforce_eager=mode == "eager", **ROOMY, **RAW_LOGITS) as llm:
        for request in asked[3:]:
            items = reference.items(request)
            with torch.inference_mode():
                (features,) = llm.apply_model(lambda model, items=items: model.embed_multimodal(**items))
            for found, expected in zip(features, reference.features(request), strict=True):
                assert relative(found, expected) <= TOLERANCE
        outputs = llm.generate(asked, sampling, use_tqdm=False)
        assert assert_mindspore(llm, ADAPTER[kind], kernel_set) > 0
        assert llm.apply_model(runs_fused) == [mode == "compiled"]
    for request, output in zip(asked, outputs, strict=True):
        completion = output.outputs[0]
        rows = [row for row in output.prompt_logprobs if row] + list(completion.logprobs)
        logits = torch.tensor([[row[token].logprob for token in range(len(row))] for row in rows])
        expected = reference.logits(request, list(completion.token_ids))
        assert relative(logits, expected) <= TOLERANCE
