"""`mszoo bench` on a tiny checkpoint: all of it once, who answered, and its two refusals."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mszoo.adapters.vllm.cli.bench.agreement import compare
from mszoo.adapters.vllm.cli.bench.job import MINDSPORE, VLLM, BenchError, Result, Workload
from mszoo.adapters.vllm.cli.bench.runs import environment, run_once
from mszoo.registry.cli import build

from .draft_checkpoints import make_draft, make_predictable
from .llava_checkpoints import make_llava

OPTIONS = {"--dtype": "float32", "--batch": "1", "--new": "24", "--prefill": "64", "--runs": "1"}
ARGUMENTS = [word for option in OPTIONS.items() for word in option]


@pytest.fixture(scope="module")
def bench(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Run the command; gives what it printed and the folder of its logs."""
    logs = tmp_path_factory.mktemp("logs")
    folder = str(checkpoint("llama"))
    result = CliRunner().invoke(
        build(), ["bench", folder, *ARGUMENTS, "--eager", "--json", "--log", str(logs)]
    )
    assert result.exit_code == 0, result.stderr
    return result.stdout, logs


def test_report(bench: tuple[str, Path]) -> None:
    report = json.loads(bench[0])
    assert (report["dtype"], report["mode"], report["runs"]) == ("float32", "eager", 1)
    assert set(report["versions"]) == {"vllm", "torch", "mindspore", "mszoo"}
    assert [row["name"] for row in report["rows"]] == [
        "decode, batch 1",
        "prefill, 64 tokens",
        "time to first token",
        "start to first token, cold cache",
        "peak RSS",
    ]
    for row in report["rows"]:
        assert row["mindspore"]["median"] > 0
        assert row["ratio"] == row["mindspore"]["median"] / row["vllm"]["median"]
    assert report["outputs"]["same_answers"] + len(report["outputs"]["near_ties"]) == 4
    assert report["outputs"]["max_difference"] < 1e-3


def test_who_answered(bench: tuple[str, Path]) -> None:
    report = json.loads(bench[0])
    ours, theirs = report["answered"]["mindspore"], report["answered"]["vllm"]
    assert ours["adapter"] == "native.LlamaForCausalLM"
    assert set(ours["kernels"].values()) == {"cpu"}
    assert ours["forwards"] > 24
    assert ours["digest"] == report["digest"]
    assert theirs["classes"][0] == "vllm.model_executor.models.llama.LlamaForCausalLM"
    assert not any("mszoo" in name for name in theirs["classes"])


def untimed(side: str, folder: Path) -> dict[str, str]:
    """Return the environment of a run whose times nobody reads: what torch has compiled before, it may use."""
    environ = environment(side, None, folder / "cache", os.environ)
    del environ["TORCHINDUCTOR_CACHE_DIR"]
    return environ


@pytest.mark.long
def test_another_model_is_refused(
    bench: tuple[str, Path], checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    ours = Result.from_json(json.loads((bench[1] / "01-mindspore.json").read_text()))
    other = checkpoint("llama", rope_parameters={"rope_type": "default", "rope_theta": 100.0})
    workload = Workload(str(other), "float32", (1,), new=24, prefill=64, eager=True, repeats=1)
    environ = untimed(VLLM, tmp_path)
    theirs = run_once(workload, VLLM, environ, tmp_path, tmp_path / "run.log")
    with pytest.raises(BenchError, match="the two models' outputs differ"):
        compare(ours, theirs)


@pytest.mark.long  # tests/unit/test_bench_worker.py has who is refused
def test_the_wrong_answerer_is_refused(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """With mszoo disabled, vLLM's own model serves, and no figure may come of it."""
    environ = untimed(MINDSPORE, tmp_path) | {"MSZOO_DISABLE": "1"}
    workload = Workload(str(checkpoint("llama")), "float32", (1,), prefill=64, eager=True)
    with pytest.raises(BenchError, match=r"models\.llama\.LlamaForCausalLM served the MindSpore side"):
        run_once(workload, MINDSPORE, environ, tmp_path, tmp_path / "run.log")


@pytest.mark.long  # test_speculation.py counts what is accepted, tests/unit/test_bench_report.py has the rest
def test_proposals(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """A draft model on both sides, by each side's own."""
    target = make_predictable(checkpoint("llama"), tmp_path / "target")
    draft = make_draft(target, tmp_path / "draft", 2)
    asked = {"method": "draft_model", "model": str(draft), "num_speculative_tokens": 2}
    shown = ["--speculative-config", json.dumps(asked)]
    result = CliRunner().invoke(build(), ["bench", str(target), *ARGUMENTS, *shown, "--eager", "--json"])
    assert result.exit_code == 0, result.stderr
    answered = json.loads(result.stdout)["answered"]
    assert answered["mindspore"]["draft"] == "native.LlamaForCausalLM"
    assert answered["vllm"]["draft"] == "vllm.model_executor.models.llama.LlamaForCausalLM"
    assert answered["mindspore"]["accepted"] == answered["vllm"]["accepted"] > 0


@pytest.mark.long
def test_images_in_prompts(tmp_path: Path) -> None:
    """Prefill with images on both sides, and an answer about them among those that are compared."""
    folder = str(make_llava(tmp_path / "llava"))
    shown = ["--images", "2", "--image-size", "40"]
    result = CliRunner().invoke(build(), ["bench", folder, *ARGUMENTS, *shown, "--eager", "--json"])
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["answered"]["mindspore"]["adapter"] == "native.LlavaForConditionalGeneration"
    assert report["rows"][1]["name"] == "prefill, 2 images of 40 pixels a side and 64 tokens"
    assert report["outputs"]["same_answers"] + len(report["outputs"]["near_ties"]) == 5
