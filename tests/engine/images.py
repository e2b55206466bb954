"""What tests of models that read images have in common: comparisons with Hugging Face and with vLLM's own model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from .answers import run_all
from .conftest import RAW_LOGITS, assert_mindspore, running_engine

TOLERANCE = 2e-5  # of the largest
ROOMY = {
    "skip_tokenizer_init": False,
    "max_model_len": 512,
    "max_num_batched_tokens": 512,
}


class Reference(Protocol):
    """What Hugging Face's model of a checkpoint computes, in float32."""

    def pixels(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a model's ``embed_multimodal`` takes of a request."""

    def features(self, request: Mapping[str, Any]) -> list[Any]:
        """Return the embeddings of a request's items."""

    def logits(self, request: Mapping[str, Any], tokens: Sequence[int]) -> Any:
        """Return the logits behind each token of a request and its answer, the last one's aside."""


def runs_fused(model: Any) -> bool:
    """Return whether the decoder runs as one graph, or its layers as one call each; inside the worker."""
    decoder = model.network.language_model.decoder
    return decoder.graph.runs or all(layer.compiled.runs for layer in decoder.decoder_layers)


def relative(found: Any, expected: Any) -> float:
    """Return the largest difference, relative to the largest value."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def computes_alike(
    folder: Path,
    reference: Reference,
    asked: list[dict[str, Any]],
    adapter: str,
    *,
    kernels: str,
    fused: bool,
) -> None:
    """Compare features of items, and logits of prompts and their answers, with the reference's."""
    import torch

    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, logprobs=-1, prompt_logprobs=-1)
    with running_engine(folder, enforce_eager=not fused, **ROOMY, **RAW_LOGITS) as llm:
        for request in asked:
            if "multi_modal_data" not in request:
                continue
            pixels = reference.pixels(request)
            with torch.inference_mode():
                (features,) = llm.apply_model(lambda model, pixels=pixels: model.embed_multimodal(**pixels))
            for found, expected in zip(features, reference.features(request), strict=True):
                assert relative(found, expected) <= TOLERANCE
        outputs = llm.generate(asked, sampling, use_tqdm=False)
        assert assert_mindspore(llm, adapter, kernels) > 0
        assert llm.apply_model(runs_fused) == [fused]
    for request, output in zip(asked, outputs, strict=True):
        completion = output.outputs[0]
        rows = [row for row in output.prompt_logprobs if row] + list(completion.logprobs)
        logits = torch.tensor([[row[token].logprob for token in range(len(row))] for row in rows])
        assert relative(logits, reference.logits(request, list(completion.token_ids))) <= TOLERANCE


def answers_alike(
    folder: Path, asked: list[dict[str, Any]], adapter: str, workplace: Path, **options: Any
) -> None:
    """Compare greedy tokens, compiled and in chunks across images, with those of vLLM's own model."""
    job = {"model": str(folder), "requests": [_as_files(request, workplace) for request in asked]}
    eager = {**ROOMY, **options, "enforce_eager": True, "enable_prefix_caching": False}
    chunked = {**ROOMY, **options, "max_num_batched_tokens": 64, "block_size": 32}
    own = run_all({"": job | {"options": eager}}, workplace / "own.json", MSZOO_DISABLE="1")[""]
    ours = run_all({"": job | {"options": chunked, "again": True}}, workplace / "ours.json")[""]
    (worker,) = ours["workers"]
    assert worker["adapter"] == adapter
    assert worker["forwards"] > 0
    assert own["workers"][0]["adapter"] is None
    assert ours["answers"] == own["answers"]
    assert ours["again"] == own["answers"]
    assert len({tuple(answer) for answer in own["answers"]}) == len(asked)


def _as_files(request: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a request with files in place of what it shows."""
    import numpy as np

    files: dict[str, list[Any]] = {"images": [], "videos": []}
    for kind, found in request.get("multi_modal_data", {}).items():
        for item in found if isinstance(found, list) else [found]:
            name = str(folder / f"{len(list(folder.iterdir()))}.npy")
            np.save(name, np.asarray(item))
            files[f"{kind}s"].append([name, None] if kind == "video" else name)
    return {"prompt": request["prompt"], **files}
