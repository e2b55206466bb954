"""``mszoo check`` where vLLM serves on NPU: what a user runs on a real server, and sends."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

#: A stand-in has no driver, and other versions than the set of vllm-ascend's.
EXPECTED = "test_set_up"


def check(report: Path, *arguments: str) -> dict[str, Any]:
    code = "from mszoo.registry.cli import main; main()"
    command = [sys.executable, "-c", code, "check", "--device", "npu", "--json", "--report", str(report)]
    done = subprocess.run(
        [*command, *arguments],
        env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "MY_API_KEY": "sesame-open"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    assert done.returncode in (0, 1), done.stderr[-3000:]
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def failed(document: dict[str, Any]) -> dict[str, str]:
    tests = [test for item in document["adapters"] for test in item["tests"]]
    return {test["test"]: test["reason"] for test in tests if test["outcome"] in ("failed", "error")}


def test_the_device_and_every_op(tmp_path: Path) -> None:
    document = check(tmp_path / "report.md", "npu", "--tier", "numeric")
    assert document["device"] == "npu"
    assert set(failed(document)) == {EXPECTED}
    (item,) = document["adapters"]
    outcomes = {test["test"]: test["outcome"] for test in item["tests"]}
    assert outcomes["test_op[rotary_embedding-bfloat16]"] == outcomes["test_exchange[float16]"] == "passed"
    assert outcomes["test_op[paged_attention-float16]"] == "skipped"
    text = (tmp_path / "report.md").read_text()
    assert "The machine: 0 Ascend devices, driver unknown, CANN unknown, NNAL unknown." in text
    for private in (platform.node(), str(Path.home()), tempfile.gettempdir(), "sesame-open"):
        assert private not in text


@pytest.mark.long
def test_the_device_whole(tmp_path: Path) -> None:
    document = check(tmp_path / "report.md", "npu")
    assert set(failed(document)) == {EXPECTED}
    text = (tmp_path / "report.md").read_text()
    assert "`test_default_mode`: vLLM's graphs: NONE" in text
    assert "`test_speed`: MindSpore to vLLM's own, float16: " in text


@pytest.mark.long
@pytest.mark.parametrize("adapter", ["native.LlamaForCausalLM", "native.Qwen3ForCausalLM"])
def test_a_model(tmp_path: Path, adapter: str) -> None:
    """All dtypes against Hugging Face, chunks, cached prefixes, preemption, LoRA, two ranks, two stages."""
    document = check(tmp_path / "report.md", adapter)
    assert not failed(document)
    (item,) = document["adapters"]
    assert item["tiers"] == {"static": "passed", "numeric": "passed", "engine": "passed"}
    skipped = {test["test"]: test["reason"] for test in item["tests"] if test["outcome"] == "skipped"}
    # No attention there takes float32, in which these compare.
    assert set(skipped) == {"test_embeddings", "test_logits[float32]", "test_quantization"}
