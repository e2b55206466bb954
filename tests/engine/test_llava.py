"""LLaVA: image features and logits of Hugging Face in float32, and vLLM's own greedy tokens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .answers import run_all
from .conftest import RAW_LOGITS, assert_mindspore, running_engine, served_by
from .images import TOLERANCE, relative, runs_fused
from .llava_checkpoints import CLIP, SIGLIP, Reference, make_llava, pictures, requests

ADAPTER = "native.LlavaForConditionalGeneration"
ROOMY = {
    "skip_tokenizer_init": False,
    "limit_mm_per_prompt": {"image": 3},
    "max_model_len": 512,
    "max_num_batched_tokens": 512,
}
_QWEN2 = {"model_type": "qwen2", "tie_word_embeddings": True}
_FULL = {"vision_feature_select_strategy": "full"}
CASES: dict[str, dict[str, Any]] = {
    "clip-llama": {},
    "siglip-qwen2": {"text": _QWEN2, "vision": SIGLIP, **_FULL},
    "clip-mistral-layers": {
        "text": {"model_type": "mistral", "sliding_window": 24},
        "vision": CLIP | {"hidden_act": "gelu", "image_size": 33},
        "vision_feature_layer": [-1, 0, 2],
        "projector_hidden_act": "gelu_pytorch_tanh",
        "multimodal_projector_bias": False,
    },
}
CASES["clip-mistral-layers"]["vision"]["patch_size"] = 11
CASES["next"] = {"kind": "LlavaNext", "image_grid_pinpoints": [[30, 60], [60, 30], [60, 60], [30, 90]]}
CASES["next-siglip"] = CASES["next"] | {"vision": SIGLIP, **_FULL}
NEXT = "native.LlavaNextForConditionalGeneration"
RUNS = [
    ("cpu", "compiled", "next"),
    ("mindspore", "eager", "next-siglip"),
    ("cpu", "compiled", "clip-llama"),
    ("cpu", "eager", "siglip-qwen2"),
    ("cpu", "compiled", "clip-mistral-layers"),
    ("mindspore", "compiled", "clip-llama"),
    ("mindspore", "eager", "siglip-qwen2"),
]


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a maker of the cases' checkpoints."""
    made: dict[str, Path] = {}

    def make(case: str) -> Path:
        if case not in made:
            made[case] = make_llava(tmp_path_factory.mktemp(case), **CASES[case])
        return made[case]

    return make


@pytest.mark.parametrize(("kernel_set", "mode", "case"), RUNS)
def test_it_computes_what_hugging_face_does(
    kernel_set: str, mode: str, case: str, llava: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features of images of odd sizes, and logits of prompts with and without them."""
    import torch

    from vllm import SamplingParams

    monkeypatch.setenv("MSZOO_KERNELS", kernel_set)
    folder = llava(case)
    reference, asked = Reference(folder), requests(pictures())
    sampling = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, logprobs=-1, prompt_logprobs=-1)
    with running_engine(folder, enforce_eager=mode == "eager", **ROOMY, **RAW_LOGITS) as llm:
        pixels = reference.pixels(asked[-1])
        with torch.inference_mode():
            (features,) = llm.apply_model(lambda model: model.embed_multimodal(**pixels))
        for found, expected in zip(features, reference.features(asked[-1]), strict=True):
            assert relative(found, expected) <= TOLERANCE
        outputs = llm.generate(asked, sampling, use_tqdm=False)
        adapter = NEXT if case.startswith("next") else ADAPTER
        assert assert_mindspore(llm, adapter, kernel_set) > 0
        assert llm.apply_model(runs_fused) == [mode == "compiled"]
    for request, output in zip(asked, outputs, strict=True):
        completion = output.outputs[0]
        rows = [row for row in output.prompt_logprobs if row] + list(completion.logprobs)
        logits = torch.tensor([[row[token].logprob for token in range(len(row))] for row in rows])
        expected = reference.logits(request, list(completion.token_ids))
        assert relative(logits, expected) <= TOLERANCE


def test_embeddings_in_place_of_an_image(llava: Callable[[str], Path]) -> None:
    """What the projector gives may be sent instead of the image."""
    import torch

    from vllm import SamplingParams

    folder = llava("clip-llama")
    reference, (_, one, *_) = Reference(folder), requests(pictures())
    embedded = one | {"multi_modal_data": {"image": torch.stack(reference.features(one))}}
    sampling = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    with running_engine(folder, enable_mm_embeds=True, enable_prefix_caching=False, **ROOMY) as llm:
        answers = [llm.generate(item, sampling, use_tqdm=False)[0] for item in (one, embedded)]
        assert_mindspore(llm, ADAPTER, "cpu")
    assert answers[0].outputs[0].token_ids == answers[1].outputs[0].token_ids


def test_a_tower_that_nobody_needs(llava: Callable[[str], Path]) -> None:
    """Where no prompt may have an image, as with vLLM's own model there is no tower; embeddings may still come."""
    from vllm import SamplingParams

    folder = llava("next")
    reference, asked = Reference(folder), requests(pictures())
    (features,) = reference.features(asked[1])
    embedded = asked[1] | {"multi_modal_data": {"image": features[None]}}
    sampling = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    options = ROOMY | {"limit_mm_per_prompt": {"image": 0}, "enable_mm_embeds": True}
    with running_engine(folder, **options) as llm:
        outputs = llm.generate([asked[0], embedded], sampling, use_tqdm=False)
        assert_mindspore(llm, NEXT, "cpu")
        assert llm.apply_model(lambda model: hasattr(model, "vision_tower")) == [False]
    assert list(outputs[0].outputs[0].token_ids) == reference.answer(asked[0], 6)
    assert list(outputs[1].outputs[0].token_ids) == reference.answer(asked[1], 6)


def _listed(data: dict[str, Any] | None) -> list[Any]:
    images = [] if data is None else data["image"]
    return images if isinstance(images, list) else [images]


def _write_lora(folder: Path, checkpoint: Path) -> Path:
    """Write a random LoRA adapter on the decoder, by PEFT's names of Hugging Face's model of today."""
    import torch

    from safetensors.torch import load_file, save_file

    generator, tensors = torch.Generator().manual_seed(1), {}
    for name, weight in load_file(checkpoint / "model.safetensors").items():
        if "language_model" in name and name.endswith("_proj.weight"):
            inner = name.removeprefix("language_model.model.").removesuffix(".weight")
            module = f"base_model.model.model.language_model.{inner}"
            for part, shape in (("A", (4, weight.shape[1])), ("B", (weight.shape[0], 4))):
                value = torch.randn(shape, generator=generator) * 0.2
                tensors[f"{module}.lora_{part}.weight"] = value
    assert len(tensors) == 2 * 7 * 3
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": modules, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _job(folder: Path, workplace: Path) -> dict[str, Any]:
    """Return a job that asks all requests of a checkpoint, with the images as files."""
    images = []
    for index, picture in enumerate(pictures()):
        images.append(str(workplace / f"{index}.png"))
        picture.save(images[-1])
    asked = [
        {"prompt": request["prompt"], "images": _listed(request.get("multi_modal_data"))}
        for request in requests(images)
    ]
    return {"model": str(folder), "requests": asked}


@pytest.mark.long  # test_llava_serving.py holds the same to Hugging Face
def test_it_answers_as_vllm_does(llava: Callable[[str], Path], tmp_path: Path) -> None:
    """The greedy tokens of vLLM's own model: compiled, in chunks across images, from the cache, with LoRA."""
    folder = llava("clip-llama")
    job = _job(folder, tmp_path)
    lora = str(_write_lora(tmp_path / "lora", folder))
    with_lora = job | {"lora": [lora] * 4}
    adapted = {"enable_lora": True, "max_lora_rank": 8}
    eager = {**ROOMY, "enforce_eager": True, "enable_prefix_caching": False}
    chunked = {**ROOMY, "max_num_batched_tokens": 32, "block_size": 32}
    tiles = job | {"model": str(llava("next"))}
    own = run_all(
        {
            "plain": job | {"options": eager},
            "lora": with_lora | {"options": eager | adapted},
            "tiles": tiles | {"options": eager},
        },
        tmp_path / "own.json",
        MSZOO_DISABLE="1",
    )
    ours = run_all(
        {
            "plain": job | {"options": ROOMY},
            "chunked": job | {"options": chunked, "again": True},
            "lora": with_lora | {"options": ROOMY | adapted},
            "tiles": tiles | {"options": ROOMY | {"max_num_batched_tokens": 64}},
        },
        tmp_path / "ours.json",
    )
    for name, found in ours.items():
        (worker,) = found["workers"]
        assert worker["adapter"] == (NEXT if name == "tiles" else ADAPTER), name
        assert worker["forwards"] > 0
        assert found["answers"] == own[name if name in own else "plain"]["answers"], name
    assert ours["chunked"]["again"] == own["plain"]["answers"]
    assert own["plain"]["workers"][0]["adapter"] is None
    assert own["lora"]["answers"] != own["plain"]["answers"]
    assert len({tuple(answer) for answer in own["plain"]["answers"]}) == 4


def test_half_precision(llava: Callable[[str], Path], tmp_path: Path) -> None:
    """In bfloat16 the log probabilities are vLLM's own, within what it keeps of them."""
    options = {**ROOMY, "dtype": "bfloat16", "enforce_eager": True}
    job = _job(llava("clip-llama"), tmp_path) | {"options": options, "max_tokens": 1}
    own = run_all({"": job}, tmp_path / "own.json", MSZOO_DISABLE="1")[""]
    ours = run_all({"": job}, tmp_path / "ours.json")[""]
    assert (ours["workers"][0]["adapter"], own["workers"][0]["adapter"]) == (ADAPTER, None)
    for found, expected in zip(ours["logprobs"], own["logprobs"], strict=True):
        assert abs(found - expected) <= 0.03


@pytest.mark.long
def test_tensor_parallel(llava: Callable[[str], Path], tmp_path: Path) -> None:
    """Two ranks give one rank's tokens."""
    picture = str(tmp_path / "picture.png")
    pictures()[1].save(picture)
    job = {"model": str(llava("clip-llama")), "requests": [{"prompt": "<image>What?", "images": [picture]}]}
    one = run_all({"": job | {"options": ROOMY}}, tmp_path / "one.json")[""]
    options = {**ROOMY, "tensor_parallel_size": 2}
    two = run_all({"": job | {"options": options}}, tmp_path / "two.json", VLLM_CPU_OMP_THREADS_BIND="0|1")[
        ""
    ]
    assert [worker["adapter"] for worker in two["workers"]] == [ADAPTER] * 2
    assert two["answers"] == one["answers"]


@pytest.mark.parametrize(
    "moved",
    [
        pytest.param({"language_model.model.": "model.language_model."}, id="4.52"),
        pytest.param({"vision_tower.vision_model.": "vision_tower."}, id="5"),
    ],
)
def test_names_of_tensors(moved: dict[str, str], llava: Callable[[str], Path], tmp_path: Path) -> None:
    """Checkpoints that newer versions of transformers wrote, and tensors that old ones carry beside."""
    import torch

    from safetensors.torch import load_file, save_file

    published = llava("clip-llama")
    shutil.copytree(published, tmp_path / "other")
    moved = moved | {
        "language_model.lm_head.": "lm_head.",
        "vision_tower.": "model.vision_tower.",
        "multi_modal_projector.": "model.multi_modal_projector.",
    }
    weights = {}
    for name, weight in load_file(published / "model.safetensors").items():
        for old, new in moved.items():
            name = new + name.removeprefix(old) if name.startswith(old) else name  # noqa: PLW2901
        weights[name] = weight
    weights["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(26)[None]
    assert "lm_head.weight" in weights
    assert any(name.startswith("model.vision_tower.") for name in weights)
    save_file(weights, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    with running_engine(tmp_path / "other", **ROOMY) as llm:
        assert served_by(llm)["adapter"] == ADAPTER
        reference = Reference(published)
        asked = requests(pictures())[1]
        pixels, (expected,) = reference.pixels(asked), reference.features(asked)
        with torch.inference_mode():
            ((features,),) = llm.apply_model(lambda model: model.embed_multimodal(**pixels))
        assert relative(features, expected) <= TOLERANCE


def test_what_it_refuses_vllm_serves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A decoder that isn't among those it takes: vLLM's own model reads the image, and one line says why."""
    from vllm import SamplingParams

    text = {"model_type": "granite", "pad_token_id": 0}
    folder = make_llava(tmp_path / "granite", text=text)
    sampling = SamplingParams(temperature=0, max_tokens=2)
    with running_engine(folder, **ROOMY) as llm:
        assert served_by(llm)["adapter"] is None
        assert llm.generate(requests(pictures())[1], sampling, use_tqdm=False)[0].outputs[0].token_ids
    reason = (
        f"{ADAPTER}: config.json says text_config.model_type='granite', which this model doesn't implement"
    )
    assert reason in caplog.text
