"""What is said of a machine with Ascend NPUs: one line for each fault, by constructed facts."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path

import pytest
import tomllib

from mszoo.registry.ascend.faults import MEMORY_UTILIZATION, PAGE, ascend_faults
from mszoo.registry.ascend.machine import Machine
from mszoo.registry.ascend.npu_smi import Chip
from mszoo.registry.versions import ASCEND_STACKS, MINDSPORE, MINDSPORE_CANN

from .doctor_facts import ASCEND, ASCEND_VERSIONS, ROOT, texts

SET = f"See the first lines of {ASCEND_STACKS[0].file}"
FREE, FULL = Chip("910B3", 3400, 65536), Chip("910B3", 53248, 65536)


def faults(versions=None, environ=None, platforms=("ascend",), **changes):
    """What is said of a good machine, changed; a version of None removes the distribution."""
    found = {**ASCEND_VERSIONS, **(versions or {})}
    found = {name: version for name, version in found.items() if version is not None}
    return texts(ascend_faults(dataclasses.replace(ASCEND, **changes), found, environ or {}, platforms))


FAULTS = {
    "no device": (
        {"npus": 0},
        "problem",
        "this machine: shows no Ascend device (/dev/davinci*). Install Ascend's driver, or pass the devices to the "
        "container; see them with: npu-smi info",
    ),
    "old driver": (
        {"driver": "25.5.2"},
        "warning",
        "Ascend driver 25.5.2: is older than the one for CANN 9.1.0 (26.0.RC1). Update driver and firmware, as "
        f"CANN 9.1.0's release notes say ({PAGE}): npu-smi info",
    ),
    "no CANN": (
        {"cann_home": None, "cann": None, "cann_script": None},
        "problem",
        "CANN: is not installed in its usual place (ASCEND_HOME_PATH or ASCEND_TOOLKIT_HOME). "
        "Install 9.1.0, then set it up: source /usr/local/Ascend/ascend-toolkit/set_env.sh",
    ),
    "CANN not set up": (
        {"cann_home": None, "cann": None},
        "problem",
        "CANN: is not set up in this shell (ASCEND_HOME_PATH or ASCEND_TOOLKIT_HOME). "
        "Set it up: source /usr/local/Ascend/cann/set_env.sh",
    ),
    "CANN's folder is none": (
        {"cann_home": "/opt/gone", "cann": None},
        "problem",
        "CANN: has no version that can be read in /opt/gone. "
        "Name the folder of CANN 9.1.0: source /usr/local/Ascend/cann/set_env.sh",
    ),
    "wrong CANN": (
        {"cann": "9.0.1"},
        "problem",
        "CANN 9.0.1: is not the one that vllm-ascend 0.23.0 is made for (9.1.0); it is in /usr/local/Ascend/cann. "
        f"Install CANN 9.1.0 with its ops and NNAL ({PAGE}), then: source "
        "/usr/local/Ascend/ascend-toolkit/set_env.sh",
    ),
    "no NNAL": (
        {"nnal": None, "nnal_script": None},
        "problem",
        "NNAL: is not installed in its usual place (ATB_HOME_PATH): libatb.so can't be found. "
        "Install 9.1.0, then set it up: source /usr/local/Ascend/nnal/atb/set_env.sh",
    ),
    "NNAL not set up": (
        {"nnal": None},
        "problem",
        "NNAL: is not set up in this shell (ATB_HOME_PATH): libatb.so can't be found. "
        "Set it up: source /usr/local/Ascend/nnal/atb/set_env.sh",
    ),
    "wrong NNAL": (
        {"nnal": "8.5.1"},
        "warning",
        "NNAL 8.5.1: is not of CANN 9.1.0, as vllm-ascend 0.23.0 needs it. "
        "Install NNAL 9.1.0, then: source /usr/local/Ascend/nnal/atb/set_env.sh",
    ),
    "no torch_npu": (
        {"versions": {"torch-npu": None}},
        "problem",
        "torch_npu: is not installed. Install the one for this set: pip install --no-deps torch-npu==2.10.0.post4",
    ),
    "wrong post-release of torch_npu": (
        {"versions": {"torch-npu": "2.10.0"}},
        "problem",
        "torch_npu 2.10.0: is not the one that vllm-ascend 0.23.0 is compiled with (2.10.0.post4). "
        "Install that one, its post-release too: pip install --no-deps torch-npu==2.10.0.post4",
    ),
    "a snapshot of torch_npu": (
        {"versions": {"torch-npu": "2.10.0.post5.dev20260926"}},
        "warning",
        "torch_npu 2.10.0.post5.dev20260926: is not the one that vllm-ascend 0.23.0 is compiled with "
        "(2.10.0.post4). "
        "Install that one, its post-release too: pip install --no-deps torch-npu==2.10.0.post4",
    ),
    "vLLM of another number": (
        {"versions": {"vllm": "0.24.0+empty"}},
        "problem",
        "vllm 0.24.0+empty: is not the one that vllm-ascend 0.23.0 is written for (0.23.0). "
        "Install that one: pip install --no-deps vllm==0.23.0",
    ),
    "no vllm-ascend": (
        {"versions": {"vllm-ascend": None}},
        "problem",
        f"vllm-ascend: is not installed. Install the whole set. {SET}",
    ),
    "a vllm-ascend without a set": (
        {"versions": {"vllm-ascend": "0.27.1rc1", "vllm": "0.27.1"}},
        "warning",
        "vllm-ascend 0.27.1rc1: is none that mszoo knows the set of (0.23.0, 0.30.0rc2); compared with 0.23.0's "
        f"here. Install that set if in doubt. {SET}",
    ),
    "no torchvision": (
        {"versions": {"torchvision": None}},
        "problem",
        f"torchvision: is not installed; vllm-ascend's worker imports it. Install torchvision 0.25.0. {SET}",
    ),
    "another transformers": (
        {"versions": {"transformers": "5.19.0"}},
        "warning",
        f"transformers 5.19.0: is not the one that vllm-ascend 0.23.0 pins (5.5.4). Install that one. {SET}",
    ),
    "PyPI's triton-ascend": (
        {"versions": {"triton-ascend": "3.2.0"}},
        "warning",
        f"triton-ascend 3.2.0: is not the one that vllm-ascend 0.23.0 pins (3.2.2). Install that one. {SET}",
    ),
    "no platform": (
        {"platforms": ()},
        "problem",
        "vllm-ascend: declares no platform for vLLM. "
        "Install it again: pip install --force-reinstall --no-deps vllm-ascend",
    ),
    "vLLM told to serve on CPU": (
        {"environ": {"VLLM_TARGET_DEVICE": "cpu"}},
        "problem",
        "VLLM_TARGET_DEVICE=cpu: makes vLLM 0.30 and newer take its own platform for CPU; it never asks "
        "vllm-ascend, and says so at DEBUG only. Let vLLM look: unset VLLM_TARGET_DEVICE",
    ),
    "vllm-ascend told of another vLLM": (
        {"environ": {"VLLM_VERSION": "0.22.1"}},
        "problem",
        "VLLM_VERSION=0.22.1: makes vllm-ascend take vLLM 0.23.0 for 0.22.1, without a line. "
        "Let it look: unset VLLM_VERSION",
    ),
    "compiled for another Python": (
        {"compiled": False},
        "warning",
        "vllm-ascend 0.23.0: has no compiled ops for this Python: it goes on without its custom ops and sleep "
        f"mode. Install a wheel for this Python, or compile it where CANN is: {PAGE}",
    ),
    "compiled for other products": (
        {"chips": (Chip("Ascend910", 3400, 65536),)},
        "problem",
        "vllm-ascend 0.23.0: is compiled for Atlas A2, and this machine's Ascend910 is of A3: its worker refuses "
        f"to start. Install one for this machine: an image of vllm-ascend's for it, or compile it here ({PAGE})",
    ),
    "MindSpore without Ascend": (
        {"mindspore": False},
        "problem",
        "mindspore 2.10.0: has no Ascend backend in it. "
        "Install one that has it: pip install --force-reinstall --no-deps mindspore==2.10.0",
    ),
    "two devices visible": (
        {"environ": {"ASCEND_RT_VISIBLE_DEVICES": "2,3"}},
        "warning",
        "ASCEND_RT_VISIBLE_DEVICES=2,3: shows 2 devices: a server takes the first, or as many as "
        "--tensor-parallel-size says. mszoo on more than one has not been tried. "
        "Show one: export ASCEND_RT_VISIBLE_DEVICES=2",
    ),
    "all eight devices visible": (
        {"npus": 8},
        "warning",
        "ASCEND_RT_VISIBLE_DEVICES (not set): shows 8 devices: a server takes the first, or as many as "
        "--tensor-parallel-size says. mszoo on more than one has not been tried. "
        "Show one: export ASCEND_RT_VISIBLE_DEVICES=0",
    ),
    "no device visible": (
        {"environ": {"ASCEND_RT_VISIBLE_DEVICES": ""}},
        "problem",
        "ASCEND_RT_VISIBLE_DEVICES=: hides every device. "
        "Show one: export ASCEND_RT_VISIBLE_DEVICES=0. Or: unset ASCEND_RT_VISIBLE_DEVICES",
    ),
    "devices by name": (
        {"environ": {"ASCEND_RT_VISIBLE_DEVICES": "npu:0"}},
        "problem",
        "ASCEND_RT_VISIBLE_DEVICES=npu:0: is no list of device numbers such as 0,1. "
        "Show one: export ASCEND_RT_VISIBLE_DEVICES=0",
    ),
    "a device out of memory": (
        {"chips": (FULL,)},
        "problem",
        "device 0 (910B3): has 12.0 of 64.0 GiB free, and vLLM asks for 92% of all unless told otherwise: it "
        "refuses to start. End what uses it (npu-smi info), or serve with --gpu-memory-utilization 0.18",
    ),
    "a device out of memory beside a free one": (
        {"chips": (FREE, Chip("910B3", 64000, 65536)), "environ": {"ASCEND_RT_VISIBLE_DEVICES": "1"}},
        "problem",
        "device 1 (910B3): has 1.5 of 64.0 GiB free, and vLLM asks for 92% of all unless told otherwise: it "
        "refuses to start. End what uses it (npu-smi info), or take a free device: "
        "export ASCEND_RT_VISIBLE_DEVICES=0",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_one_line(case):
    changes, level, text = FAULTS[case]
    assert faults(**changes) == [(level, text)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cann": "9.1.0_20260930220649"},
        {"nnal": ""},  # its file can't be read
        {"driver": "26.1.0"},
        {"driver": "25.0.rc1.1"},  # no version that can be compared
        {"versions": {"vllm": "0.23.0+empty"}},  # as vLLM names itself when it is built for no device
        {"versions": {"vllm-ascend": "0.23.0.post1"}},
        {"chips": (FREE, FULL)},
        {"chips": (Chip("910ProB", 0, 32768),)},  # a product that is not known
        {
            "environ": {
                "VLLM_VERSION": "0.23.0",
                "VLLM_TARGET_DEVICE": "empty",
                "ASCEND_RT_VISIBLE_DEVICES": "3",
            }
        },
    ],
    ids=str,
)
def test_what_is_as_it_should_be_has_no_line(changes):
    assert faults(**changes) == []


@pytest.mark.parametrize(
    ("version", "level"),
    [("9.1.1", "warning"), ("9.1.RC1", "warning"), ("9.1.0-beta.1", "warning"), ("8.5.0", "problem")],
)
def test_another_build_of_the_same_cann_is_a_warning(version, level):
    assert [found for found, _ in faults(cann=version, nnal="")] == [level]


def test_the_candidate_is_compared_with_its_own_set():
    stack = ASCEND_STACKS[1]
    good = {**stack.pins, "torch": None}
    assert faults(good, cann="9.2.0", nnal="9.2.0", driver="1.0") == [
        (
            "warning",
            "mindspore 2.10.0: names CANN 8.2, 8.3, 8.5, 9.0, 9.1, and this is 9.2.0: it warns, and goes on. "
            f"Use CANN 9.1.0 if in doubt: {PAGE}",
        )
    ]
    texts_of = [text for _, text in faults({**good, "vllm": "0.23.0"}, cann="9.1.0", nnal="9.1.0")]
    assert texts_of[0].startswith("CANN 9.1.0: is not the one that vllm-ascend 0.30.0rc2 is made for (9.2.0)")
    assert texts_of[1].startswith("NNAL 9.1.0: is not of CANN 9.2.0")
    assert texts_of[2].startswith(
        "vllm 0.23.0: is not the one that vllm-ascend 0.30.0rc2 is written for (0.30.0)"
    )


def test_a_bare_machine_has_a_line_for_each():
    found = texts(ascend_faults(Machine(), {}, {}, ()))
    assert [text.partition(":")[0] for _, text in found] == [
        "this machine",
        "CANN",
        "NNAL",
        "vllm-ascend",
        "torch_npu",
        "torchvision",
        "torchaudio",
        "transformers",
        "triton-ascend",
    ]


def test_what_the_lines_lead_to_is_there():
    assert (ROOT / PAGE).is_file()
    assert all(Path(stack.file).is_file() for stack in ASCEND_STACKS)
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["data-files"]
    assert shipped == {"share/mszoo": [stack.requirements for stack in ASCEND_STACKS]}
    # MINDSPORE_CANN is of the tested MindSpore.
    assert all(stack.mindspore == MINDSPORE.tested for stack in ASCEND_STACKS)


def installed(package: str) -> Path:
    return Path(importlib.util.find_spec(package).submodule_search_locations[0])


def test_mindspore_names_these_releases_of_cann():
    source = (installed("mindspore") / "run_check" / "_check_version.py").read_text("utf-8")
    checker = source.partition("class AscendEnvChecker")[2]
    named = re.search(r"self\.version = \[(.*?)\]", checker)[1]
    assert tuple(re.findall(r'"([\d.]+)"', named)) == MINDSPORE_CANN


def test_vllm_takes_this_part_of_a_device():
    source = (installed("vllm") / "config" / "cache.py").read_text("utf-8")
    assert re.search(r"gpu_memory_utilization: float = Field\(default=([\d.]+)", source)[1] == str(
        MEMORY_UTILIZATION
    )
