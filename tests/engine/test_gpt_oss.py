"""gpt-oss in chunks, from the cache and on two ranks: Hugging Face's tokens. Its logits: test_families.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.published import corpus

from .answers import run_all
from .conftest import running_engine

ADAPTER = "native.GptOssForCausalLM"
#: Longer than the window of 16, and of another length than blocks and chunks have.
PROMPTS = [[5, 17, 99, 201, 3, 44, 180], list(range(3, 100)), [7, 8] * 33]
COUNT = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("gpt-oss")
    corpus.write_config(corpus.read()["openai/gpt-oss-20b"], found)
    corpus.write_checkpoint(corpus.reference_of(found), found)
    return found


def expected(folder: Path) -> list[list[int]]:
    """Return Hugging Face's greedy tokens."""
    import torch

    reference = corpus.load_reference(folder)
    answers = []
    for prompt in PROMPTS:
        tokens = list(prompt)
        for _ in range(COUNT):
            with torch.no_grad():
                tokens.append(int(reference(torch.tensor([tokens])).logits[0, -1].argmax()))
        answers.append(tokens[len(prompt) :])
    return answers


def options(**others: Any) -> dict[str, Any]:
    pinned = {"hf_overrides": {"architectures": [ADAPTER]}, "max_model_len": 128, "block_size": 32}
    return {**pinned, "max_num_batched_tokens": 32, **others}


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.long)])
def test_it_answers_as_hugging_face_does(ranks: int, folder: Path, tmp_path: Path) -> None:
    job = {"model": str(folder), "prompts": PROMPTS, "max_tokens": COUNT}
    job["options"] = options(tensor_parallel_size=ranks)
    cores = "0|1" if ranks == 2 else "0"
    jobs, file = {"": job | {"again": True}}, tmp_path / "answers.json"
    found = run_all(jobs, file, VLLM_CPU_OMP_THREADS_BIND=cores)[""]
    assert len(found["workers"]) == ranks
    assert {worker["adapter"] for worker in found["workers"]} == {ADAPTER}
    assert found["answers"] == expected(folder)
    assert found["again"] == found["answers"]
    assert len({tuple(answer) for answer in found["answers"]}) == len(PROMPTS)


def test_another_kernel_set_refuses_sinks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSZOO_KERNELS", "mindspore")
    why = "attention sinks are in vLLM's kernel alone"
    with pytest.raises(Exception, match=why), running_engine(folder, **options()):
        pass


@pytest.mark.long
def test_a_checkpoint_in_mxfp4_is_refused(folder: Path) -> None:
    overrides = {"architectures": [ADAPTER], "quantization_config": {"quant_method": "mxfp4"}}
    with (
        pytest.raises(Exception, match="quantization"),
        running_engine(folder, **options(hf_overrides=overrides)),
    ):
        pass
