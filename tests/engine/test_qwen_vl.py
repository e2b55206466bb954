"""Qwen-VLs and GLM-4.1V: features and logits of Hugging Face in float32, and vLLM's own greedy tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .answers import run_all
from .conftest import RAW_LOGITS, assert_mindspore, running_engine
from .qwen_vl_checkpoints import film, make_qwen_vl, pictures, reference_of, requests

COUNT = 8  # tokens of an answer, which run_all takes by itself
TOLERANCE = 2e-5  # of the largest
ROOMY = {
    "skip_tokenizer_init": False,
    "limit_mm_per_prompt": {"image": 3, "video": 1},
    "mm_processor_kwargs": {"do_sample_frames": False},
    "max_model_len": 512,
    "max_num_batched_tokens": 512,
}
KINDS = ("Qwen2VL", "Qwen2_5_VL", "Glm4v", "Qwen3VL", "Qwen3VLMoe", "Glm4vMoe")
ADAPTER = {kind: f"native.{kind}ForConditionalGeneration" for kind in KINDS}
#: Whose answers vLLM 0.32's own model gives too, and whose decoders take LoRA.
AS_VLLM, WITH_LORA = (*KINDS[:3], "Glm4vMoe"), KINDS[:4]
RUNS = [
    ("mindspore", "compiled", "Qwen2VL"),
    ("cpu", "compiled", "Qwen2_5_VL"),
    ("cpu", "compiled", "Qwen3VL"),
    ("cpu", "compiled", "Qwen3VLMoe"),
    ("cpu", "compiled", "Glm4v"),
    pytest.param("cpu", "compiled", "Glm4vMoe", marks=pytest.mark.long),
    pytest.param("mindspore", "eager", "Glm4v", marks=pytest.mark.long),
    pytest.param("mindspore", "eager", "Qwen3VLMoe", marks=pytest.mark.long),
    pytest.param("mindspore", "compiled", "Qwen3VL", marks=pytest.mark.long),
    pytest.param("cpu", "compiled", "Qwen2VL", marks=pytest.mark.long),
    pytest.param("cpu", "eager", "Qwen2VL", marks=pytest.mark.long),
    pytest.param("mindspore", "eager", "Qwen2_5_VL", marks=pytest.mark.long),
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
    reference, asked = reference_of(folder, kind), requests(pictures(), kind)
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


def _write_lora(folder: Path, checkpoint: Path) -> Path:
    """Write a random LoRA adapter on the decoder, by PEFT's names of Hugging Face's model of today."""
    import torch

    from safetensors.torch import load_file, save_file

    generator, tensors = torch.Generator().manual_seed(1), {}
    for name, weight in load_file(checkpoint / "model.safetensors").items():
        if "visual" not in name and name.endswith("_proj.weight"):
            _, _, inner = name.removesuffix(".weight").partition("layers.")
            module = f"base_model.model.model.language_model.layers.{inner}"
            for part, shape in (("A", (4, weight.shape[1])), ("B", (weight.shape[0], 4))):
                value = torch.randn(shape, generator=generator) * 0.2
                tensors[f"{module}.lora_{part}.weight"] = value
    modules = sorted({name.split(".")[-3] for name in tensors})
    assert len(tensors) == 2 * len(modules) * 3
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": modules, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _asked(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return requests as a job of another process takes them."""
    import numpy as np

    images = []
    for index, picture in enumerate(pictures()):
        images.append(str(folder / f"{index}.png"))
        picture.save(images[-1])
    np.save(folder / "film.npy", film())
    asked = []
    for request in requests(images, kind):
        data = request.get("multi_modal_data", {})
        given = data.get("image", [])
        job = {"prompt": request["prompt"], "images": given if isinstance(given, list) else [given]}
        asked.append(job)
        for _, about in data.get("video", ()):
            job["videos"] = [[str(folder / "film.npy"), about]]
    return asked


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "Qwen3VL" else pytest.mark.long) for kind in KINDS]
)
def test_it_answers_as_hugging_face_does(kind: str, qwen: Callable[[str], Path], tmp_path: Path) -> None:
    """Greedy tokens in chunks across images and a video, from the cache, and with LoRA as merged into the weights.

    vLLM 0.32's own Qwen3-VLs give others behind images; its others are compared with, too.
    """
    folder = qwen(kind)
    job = {"model": str(folder), "requests": _asked(tmp_path, kind)}
    chunked = {**ROOMY, "max_num_batched_tokens": 32, "block_size": 32}
    jobs = {"chunked": job | {"options": chunked, "again": True}}
    expected = {"chunked": _expected(folder, kind)}
    if kind in WITH_LORA:
        lora = _write_lora(tmp_path / "lora", folder)
        adapted = {"enable_lora": True, "max_lora_rank": 8}
        jobs["lora"] = job | {"lora": [str(lora)] * len(job["requests"]), "options": ROOMY | adapted}
        expected["lora"] = _expected(folder, kind, lora)
        assert expected["lora"] != expected["chunked"]
    ours = run_all(jobs, tmp_path / "ours.json")
    for name, found in ours.items():
        (worker,) = found["workers"]
        assert worker["adapter"] == ADAPTER[kind], name
        assert worker["forwards"] > 0
        assert found["answers"] == expected[name], name
    assert ours["chunked"]["again"] == expected["chunked"]
    assert len({tuple(answer) for answer in expected["chunked"]}) == len(job["requests"])
    if kind in AS_VLLM:
        eager = {**ROOMY, "enforce_eager": True, "enable_prefix_caching": False}
        own = run_all({"": job | {"options": eager}}, tmp_path / "own.json", MSZOO_DISABLE="1")[""]
        assert own["workers"][0]["adapter"] is None
        assert own["answers"] == expected["chunked"]


def _expected(folder: Path, kind: str, lora: Path | None = None) -> list[list[int]]:
    """Return Hugging Face's greedy tokens, with an adapter's products added to the weights."""
    from safetensors.torch import load_file

    reference = reference_of(folder, kind)
    if lora is not None:
        tensors = load_file(lora / "adapter_model.safetensors")
        for name in [name for name in tensors if ".lora_A." in name]:
            module = reference.model.get_submodule(
                name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            )
            module.weight.data += 2 * tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
    return [reference.answer(request, COUNT) for request in requests(pictures(), kind)]


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_tensor_parallel(kind: str, qwen: Callable[[str], Path], tmp_path: Path) -> None:
    """Two ranks give one rank's tokens."""
    job = {"model": str(qwen(kind)), "requests": _asked(tmp_path, kind)[-2:]}
    one = run_all({"": job | {"options": ROOMY}}, tmp_path / "one.json")[""]
    options = {**ROOMY, "tensor_parallel_size": 2}
    two = run_all({"": job | {"options": options}}, tmp_path / "two.json", VLLM_CPU_OMP_THREADS_BIND="0|1")[
        ""
    ]
    assert [worker["adapter"] for worker in two["workers"]] == [ADAPTER[kind]] * 2
    assert two["answers"] == one["answers"]
