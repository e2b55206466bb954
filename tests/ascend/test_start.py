"""What is wrong with a machine is said by the doctor and by the first process of a server, as installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from tests.engine.sites import install, on_path

from .conftest import ROOT

NO_CANN = "CANN: is not installed in its usual place (ASCEND_HOME_PATH or ASCEND_TOOLKIT_HOME). "
#: The doctor's table has the hints in another column.
LINES = (
    "this machine: shows no Ascend device (/dev/davinci*). ",
    "CANN 9.0.1: is not the one that vllm-ascend 0.23.0 is made for (9.1.0); it is in ",
    "torch_npu 2.10.0: is not the one that vllm-ascend 0.23.0 is compiled with (2.10.0.post4). ",
    "vllm 0.24.0: is not the one that vllm-ascend 0.23.0 is written for (0.23.0). ",
    "ASCEND_RT_VISIBLE_DEVICES=0,1: shows 2 devices: ",
)
_SERVE = "import sys; from vllm import LLM; LLM(sys.argv[1], enforce_eager=True, skip_tokenizer_init=True)"
COMMANDS = {
    "doctor": "from mszoo.registry.cli import main; main()",
    "start": "import sys; del sys.argv[1:]; from vllm.plugins import load_general_plugins; load_general_plugins()",
}


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of a machine with another CANN, torch-npu and vLLM, and two devices to see."""
    site, cann = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("cann")
    (cann / "version.cfg").write_text("toolkit_running_version=[9.0.1:9.0.1]\n")
    for name, version in (("torch-npu", "2.10.0"), ("vllm", "0.24.0")):
        install(site, name, distribution(name).read_text("entry_points.txt") or "", {}, version)
    shown = {"ASCEND_HOME_PATH": str(cann), "ASCEND_RT_VISIBLE_DEVICES": "0,1"}
    return shown | {"PYTHONPATH": on_path(site, ROOT)}


def said_by(who: str, environment: dict[str, str]) -> str:
    """Return what a process prints, on one line."""
    unset = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "ASCEND_RT_VISIBLE_DEVICES")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS[who], "doctor", "--device", "npu"],
        env=inherited | {"COLUMNS": "400", "VLLM_LOGGING_LEVEL": "INFO"} | environment,
        cwd=Path(ROOT),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode in (0, 1), done.stderr[-3000:]
    return " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize("who", COMMANDS)
def test_a_wrong_machine_has_a_line_for_each_fault(who: str, wrong: dict[str, str]) -> None:
    said = said_by(who, wrong)
    assert [said.count(line) for line in LINES] == [1] * len(LINES), said[-6000:]


@pytest.mark.parametrize("who", COMMANDS)
def test_a_machine_without_cann_is_told(who: str) -> None:
    assert said_by(who, {}).count(NO_CANN) == 1


def test_a_device_whose_memory_another_process_has(models: Callable[..., dict[str, Any]]) -> None:
    """vllm-ascend itself says so, before a model is built; the doctor asks npu-smi (test_ascend_faults.py)."""
    taken = {"STAND_IN_TAKEN": str(3 << 30), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    done = subprocess.run(
        [sys.executable, "-c", _SERVE, str(models("llama")["folder"])],
        env=os.environ | taken,
        cwd=Path(ROOT),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1
    said = "Free memory on device (1.0/4.0 GiB) on startup is less than desired GPU memory utilization"
    assert said in done.stderr, done.stderr[-3000:]
