"""Judges whether this machine is ready to serve on Ascend NPUs; not yet tried on one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from mszoo.registry.ascend.faults import ascend_faults
from mszoo.registry.cli.doctor.environment import Environment
from mszoo.registry.finding import Finding


def check_ascend(facts: Environment) -> Iterator[Finding]:
    """Find what is missing or wrong for Ascend; one line where nothing looks like an Ascend machine."""
    machine = facts.machine
    packages = [name for name in ("torch-npu", "vllm-ascend") if name in facts.versions]
    if facts.device != "npu" and not (machine.npus or machine.cann_home or machine.cann_script or packages):
        what = "is not an Ascend machine: no NPU, CANN, torch_npu or vllm-ascend"
        yield Finding("info", "this machine", what, "Nothing is needed to serve on CPU")
        return
    for finding in ascend_faults(machine, facts.versions, facts.environ, facts.platform_plugins):
        if facts.device == "npu":
            yield finding
        elif finding.level == "problem":
            # On a machine that serves on CPU, half an Ascend installation breaks nothing.
            yield dataclasses.replace(finding, level="warning")
    if facts.device == "npu":
        what = "has not been tested on Ascend"
        yield Finding("info", "mszoo", what, "Compare answers with vLLM's own model: export MSZOO_DISABLE=1")
