"""MindSpore One's models that read images: Hugging Face's features and logits, and vLLM's own greedy tokens."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import llava_checkpoints as llava
from . import qwen_vl_checkpoints as qwen
from . import test_llava, test_qwen_vl
from .answers import run_all
from .conftest import RAW_LOGITS, assert_mindspore, running_engine
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
def test_it_computes_what_hugging_face_does(kind: str, checkpoint: Callable[[str], Path]) -> None:
    """Features of images of odd sizes and of a video, logits in chunks across them, and the cache's."""
    import torch

    from vllm import SamplingParams

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
    options |= {"hf_overrides": {"architectures": [ADAPTER[kind]]}}
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


COUNT = 8  # tokens of an answer, which run_all takes by itself


def _job(kind: str, folder: Path, workplace: Path) -> dict[str, Any]:
    """Return a job that asks all requests of a checkpoint, with images and videos as files."""
    if kind == "Llava":
        return test_llava._job(folder, workplace)
    return {"model": str(folder), "requests": test_qwen_vl._asked(workplace, kind)}


def _expected(kind: str, folder: Path, lora: Path | None = None) -> list[list[int]]:
    """Return Hugging Face's greedy tokens, with an adapter's products added to the weights."""
    from safetensors.torch import load_file

    if kind != "Llava":
        return test_qwen_vl._expected(folder, kind, lora)
    reference = llava.Reference(folder)
    tensors = load_file(lora / "adapter_model.safetensors") if lora is not None else {}
    for name in [name for name in tensors if ".lora_A." in name]:
        path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        weight = reference.model.get_submodule(path).weight.data
        weight += 2 * tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
    return [reference.answer(request, COUNT) for request in llava.requests(llava.pictures())]


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_lora_on_the_decoder(kind: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Greedy tokens as with the adapter's products merged into Hugging Face's weights."""
    folder = checkpoint(kind)
    lora = (test_llava if kind == "Llava" else test_qwen_vl)._write_lora(tmp_path / "lora", folder)
    job = _job(kind, folder, tmp_path)
    options = options_of(kind) | {"enable_lora": True, "max_lora_rank": 8}
    adapted = job | {"lora": [str(lora)] * len(job["requests"]), "options": options}
    found = run_all({"": adapted}, tmp_path / "ours.json", MSZOO_PREFER="mindone")[""]
    (worker,) = found["workers"]
    assert worker["adapter"] == ADAPTER[kind] and worker["forwards"] > 0
    expected = _expected(kind, folder, lora)
    assert found["answers"] == expected
    assert expected != _expected(kind, folder)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_tensor_parallel(kind: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Two ranks give Hugging Face's tokens."""
    folder = checkpoint(kind)
    job = _job(kind, folder, tmp_path) | {"options": options_of(kind) | {"tensor_parallel_size": 2}}
    ours = run_all({"": job}, tmp_path / "two.json", MSZOO_PREFER="mindone", VLLM_CPU_OMP_THREADS_BIND="0|1")[
        ""
    ]
    assert [worker["adapter"] for worker in ours["workers"]] == [ADAPTER[kind]] * 2
    assert ours["answers"] == _expected(kind, folder)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(kind: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """In bfloat16, where towers stay in float32, log probabilities are near the native model's."""
    job = _job(kind, checkpoint(kind), tmp_path) | {"max_tokens": 1}
    job |= {"options": options_of(kind) | {"dtype": "bfloat16", "enforce_eager": True}}
    native, ours = (
        run_all({"": job}, tmp_path / f"{suite}.json", MSZOO_PREFER=suite)[""]
        for suite in ("native", "mindone")
    )
    assert [found["workers"][0]["adapter"] for found in (native, ours)] == [
        ADAPTER[kind].replace("mindone", "native"),
        ADAPTER[kind],
    ]
    for found, expected in zip(ours["logprobs"], native["logprobs"], strict=True):
        assert abs(found - expected) <= 0.05


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"text": {"model_type": "mistral"}}, "text_config.model_type='mistral'"),
        ({"vision": llava.SIGLIP, "vision_feature_select_strategy": "full"}, "'siglip_vision_model'"),
        ({"vision_feature_layer": [-1, 2]}, "vision_feature_layer=[-1, 2]"),
        ({"multimodal_projector_bias": False}, "multimodal_projector_bias=False"),
    ],
    ids=["decoder", "tower", "layers", "bias"],
)
def test_what_it_refuses(fields: dict[str, Any], said: str) -> None:
    """By name, before anything is built: the suite's source reads these another way, or not at all."""
    import transformers

    from mszoo.adapters.mindone.multimodal import LlavaForConditionalGeneration
    from mszoo.registry.errors import RefusalError

    given = dict(fields)
    text = {"model_type": "llama", **given.pop("text", {})}
    config = transformers.LlavaConfig(
        text_config=text, vision_config=dict(given.pop("vision", llava.CLIP)), **given
    )
    with pytest.raises(RefusalError) as caught:
        LlavaForConditionalGeneration.read_config(config, ADAPTER["Llava"])
    assert f"{ADAPTER['Llava']}: config.json says" in str(caught.value)
    assert said in str(caught.value)
