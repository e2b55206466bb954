"""Beside a stand-in for vllm-ascend (tests/ascend_stand_in), in both orders: who serves, what is left to whom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import answers
from .sites import install_ascend_stand_in, install_entry_points_again, install_layer_example, on_path

PROMPTS = [[5, 17, 99, 201, 3, 44, 180], [9, 8, 7]]
TOKENS = 8


@pytest.fixture(scope="module")
def folder(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint("llama", num_hidden_layers=2)


@pytest.fixture(scope="module")
def serve(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Serve a Llama on the stand-in's platform, in vLLM's own processes; a layer plugin wants two of its names."""
    layers = install_layer_example(tmp_path_factory.mktemp("layers"))
    stand_in = install_ascend_stand_in(tmp_path_factory.mktemp("stand-in"))
    ours = install_entry_points_again(tmp_path_factory.mktemp("mszoo"), "mszoo")

    def run(mszoo_first: bool, imports: tuple[str, ...] = ()) -> dict[str, Any]:
        order = [ours, stand_in] if mszoo_first else [stand_in, ours]
        job = {
            "model": str(folder),
            "prompts": PROMPTS,
            "max_tokens": TOKENS,
            "options": {"enforce_eager": True},
            "imports": imports,
        }
        environment = {
            "PYTHONPATH": on_path(*order, layers),
            "VLLM_LOGGING_LEVEL": "INFO",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        }
        return answers.run(job, tmp_path_factory.mktemp("result") / "result.json", **environment)

    return run


@pytest.fixture(scope="module")
def stand_in_first(serve: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return serve(mszoo_first=False)


@pytest.fixture(scope="module")
def mszoo_first(serve: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """MindSpore is in use in the parent here: a forked worker would hang."""
    return serve(mszoo_first=True, imports=("mindspore",))


@pytest.fixture(params=["stand_in_first", "mszoo_first"])
def served(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def reference(folder: Path) -> list[list[int]]:
    """Hugging Face's greedy tokens."""
    import torch

    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = [
        model.generate(torch.tensor([prompt]), do_sample=False, min_new_tokens=TOKENS, max_new_tokens=TOKENS)
        for prompt in PROMPTS
    ]
    return [item[0, len(prompt) :].tolist() for item, prompt in zip(tokens, PROMPTS, strict=True)]


def test_our_model_answers_in_either_order(served: dict[str, Any], reference: list[list[int]]) -> None:
    (worker,) = served["workers"]
    assert worker["adapter"] == "native.LlamaForCausalLM"
    assert worker["forwards"] > 0
    assert served["answers"] == reference


def test_its_layer_names_are_left_to_it_and_told_once(served: dict[str, Any]) -> None:
    for name in ("RMSNorm", "SiluAndMul"):
        line = f"layer {name} is left to ascend-stand-in 1.0.0, which registers it"
        assert served["log"].count(line) == 1
    (worker,) = served["workers"]
    assert worker["layers"] == {}
    assert "Duplicate" not in served["log"]


def test_its_model_that_came_first_is_overridden_and_told(stand_in_first: dict[str, Any]) -> None:
    line = (
        "Qwen2ForCausalLM: was registered by ascend-stand-in 1.0.0 (ascend_stand_in.models); mszoo's adapter "
    )
    assert stand_in_first["log"].count(line) == 1


def test_its_model_that_came_later_serves_and_is_told(mszoo_first: dict[str, Any]) -> None:
    line = (
        "Qwen2ForCausalLM: is served by ascend-stand-in 1.0.0 (ascend_stand_in.models), which registered it "
    )
    assert mszoo_first["log"].count(line) == 1
    assert '["native.Qwen2ForCausalLM"]' in mszoo_first["log"]


def test_workers_are_forked_while_that_is_safe(stand_in_first: dict[str, Any]) -> None:
    (worker,) = stand_in_first["workers"]
    assert worker["started_by"] == "ForkProcess"


def test_a_fork_that_would_hang_is_replaced_and_told(mszoo_first: dict[str, Any]) -> None:
    (worker,) = mszoo_first["workers"]
    assert worker["started_by"] == "SpawnProcess"
    assert "VLLM_WORKER_MULTIPROC_METHOD=spawn (was unset)" in mszoo_first["log"]
