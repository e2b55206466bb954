"""Who serves: what explain says of a folder, the line at start, and the series on /metrics."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mszoo.adapters.vllm import reports

from .server import make_text_checkpoint, running_server
from .test_choice import environment

TRANSFORMERS = "vllm.model_executor.models.transformers"
OPTIONS = (
    "--enforce-eager",
    "--max-model-len",
    "128",
    "--max-num-seqs",
    "2",
    "--num-gpu-blocks-override",
    "64",
)


def explain(folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    code = "from mszoo.registry.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "explain", str(folder), "--json", *options],
        check=False,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["serves"]


def spoil(checkpoint: Callable[..., Path], folder: Path, model_type: str, **fields: Any) -> Path:
    """Copy a checkpoint with other fields in its config."""
    import shutil

    shutil.copytree(checkpoint(model_type), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    return folder


def test_explain_builds_what_would_serve(checkpoint: Callable[..., Path]) -> None:
    status, found = explain(checkpoint("llama"), "--dtype", "float32")
    assert status == 0
    assert (found["adapter"], found["kernel_set"]) == ("native.LlamaForCausalLM", "cpu")
    assert found["asked"] == [{"adapter": "native.LlamaForCausalLM", "accepted": True, "reason": None}]


def test_explain_of_a_broken_folder(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = spoil(checkpoint, tmp_path / "model", "llama", vocab_size=200)
    status, found = explain(folder, "--dtype", "float32")
    assert (status, found["server"]) == (1, None)
    assert "has shape [256, 64], and config.json makes it [200, 64]" in found["reason"]
    assert found["asked"][0]["adapter"] == "native.LlamaForCausalLM"


def test_metrics_say_who_serves(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(reports.VARIABLE, str(tmp_path_factory.mktemp("reports")))
    reports.write(reports.Report("B", "native", "native.LlamaForCausalLM", "cpu", "1ad0bc633703", 0))
    folder = make_text_checkpoint(tmp_path_factory.mktemp("text") / "llama")
    # A process that serves too starts this server: what its workers tell is not this server's.
    with running_server(folder, tmp_path_factory.mktemp("server"), *OPTIONS) as server:
        labels = {"suite": "native", "adapter": "native.LlamaForCausalLM", "kernel_set": "cpu", "rank": "0"}
        assert server.metric("mszoo_model_info", **labels) == 1
        text = server.http.get("/metrics").text
        (line,) = [line for line in text.splitlines() if line.startswith("mszoo_model_info{")]
        assert 'vllm_version="' in line
        digest = line.partition('decision="')[2].partition('"')[0]
        assert f"decision {digest}" in server.log()


def test_metrics_and_the_log_name_vllms_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = make_text_checkpoint(tmp_path_factory.mktemp("text") / "llama")
    rope = json.dumps({"rope_parameters": {"rope_type": "linear", "factor": 2.0}})  # without theta
    options = (*OPTIONS, "--hf-overrides", rope)
    with running_server(folder, tmp_path_factory.mktemp("server"), *options) as server:
        own = "vllm.model_executor.models.llama:LlamaForCausalLM"
        assert server.metric("mszoo_model_info", suite="vllm", adapter=own, kernel_set="vllm") == 1
        assert f"mszoo: LlamaForCausalLM falls back to vLLM's own model ({own}): " in server.log()


def test_reports_are_read_by_rank(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(reports.VARIABLE, str(tmp_path / "reports"))
    assert reports.read() == []
    told = [reports.Report("A", "s", "s.A", "cpu", "1ad0bc633703", rank) for rank in (1, 0)]
    for report in told:
        reports.write(report)
    assert reports.read() == told[::-1]
    assert (tmp_path / "reports").stat().st_mode & 0o777 == 0o700
