"""Data parallel ranks on the nodes of a Ray cluster: a decoder with experts answers as on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mszoo.adapters import native
from tests.published import corpus

from .answers import run
from .conftest import give_routers_a_bias
from .test_inherited import PROMPTS

ARCHITECTURE = "Qwen3MoeForCausalLM"


@pytest.mark.long  # test_lock_and_explain.py decides in a process with what vLLM carries to Ray's workers
def test_two_nodes_answer_as_one_rank(tmp_path: Path) -> None:
    """vLLM 0.32's Ray executor refuses CPUs, so these are bare Ray workers, which load and step a model each.

    Each rank has all experts. vLLM 0.32's own models exchange tokens then, and die of it on CPU.
    """
    pytest.importorskip("ray")
    (record,) = (one for one in native.mszoo_model_adapters() if one.architecture == ARCHITECTURE)
    folder = tmp_path / "model"
    corpus.write_config(dict(record.example_config), folder)
    corpus.write_checkpoint(corpus.reference_of(folder), folder)
    give_routers_a_bias(folder)
    alone = run(
        {"model": str(folder), "prompts": PROMPTS, "options": {"enforce_eager": True}}, tmp_path / "1.json"
    )
    result = tmp_path / "cluster.json"
    process = subprocess.run(
        [sys.executable, "-m", "tests.engine.cluster", str(result)],
        input=json.dumps({"model": str(folder), "prompts": PROMPTS}),
        env=os.environ
        | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "VLLM_CPU_KVCACHE_SPACE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr[-4000:] + process.stdout[-2000:]
    ranks = json.loads(result.read_text())
    assert len({rank["node"] for rank in ranks}) == 2
    assert len({rank["digest"] for rank in ranks}) == 1
    assert {rank["adapter"] for rank in ranks} == {f"native.{ARCHITECTURE}"}
    assert [rank["answers"] for rank in ranks] == [alone["answers"]] * 2
