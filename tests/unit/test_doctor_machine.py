"""The doctor on the machine: compiled kernels, and whether it is one for Ascend."""

from __future__ import annotations

import shlex

from mszoo.registry.ascend.machine import Machine
from mszoo.registry.cli.doctor.ascend import check_ascend
from mszoo.registry.cli.doctor.environment import DISTRIBUTIONS
from mszoo.registry.cli.doctor.kernels import check_kernels, library_name
from mszoo.registry.installer import reinstall
from mszoo.registry.versions import ASCEND_STACKS

from .doctor_facts import ASCEND, ASCEND_VERSIONS, GOOD, ROOT, facts, texts


def test_kernels():
    command = reinstall()
    shown = shlex.join(command)
    assert "--force-reinstall --no-deps --no-build-isolation" in shown
    (finding,) = check_kernels(facts(kernel_libraries=("cpu_ops.torch-2.12.0.so",)))
    assert (finding.level, str(finding)) == (
        "warning",
        "mszoo: has no compiled kernels for torch 2.13.0+cpu, and is slower without them (they were compiled for "
        f"torch 2.12.0). Compile them: mszoo doctor --fix, or {shown}",
    )
    assert finding.fix == command
    (finding,) = check_kernels(facts(kernel_libraries=(), compiler=False))
    assert str(finding) == (
        "mszoo: has no compiled kernels for torch 2.13.0+cpu, and is slower without them. Install a C++ compiler "
        f"(apt-get install g++), then compile them: {shown}"
    )
    assert finding.fix == ()
    (finding,) = check_kernels(facts(kernel_libraries=None))
    assert (finding.level, str(finding)) == (
        "problem",
        f"mszoo: lacks its package mszoo.kernels. Install it anew: {shown}",
    )
    assert list(check_kernels(facts("npu", kernel_libraries=()))) == []


def test_the_library_is_named_as_setup_names_it():
    assert 'f"cpu_ops.torch-{_torch_version()}.so"' in (ROOT / "setup.py").read_text()
    assert library_name("2.13.0+cpu") == "cpu_ops.torch-2.13.0.so"


def test_no_ascend_machine_is_one_line():
    assert texts(check_ascend(GOOD)) == [
        (
            "info",
            "this machine: is not an Ascend machine: no NPU, CANN, torch_npu or vllm-ascend. "
            "Nothing is needed to serve on CPU",
        )
    ]


def test_the_set_of_vllm_ascend_has_one_line():
    """It says that nobody tried; all else is as the table has it."""
    found = facts("npu", ASCEND_VERSIONS, machine=ASCEND, platform_plugins=("ascend",))
    assert texts(check_ascend(found)) == [
        (
            "info",
            "mszoo: has not been tested on Ascend. "
            "Compare answers with vLLM's own model: export MSZOO_DISABLE=1",
        )
    ]


def test_half_an_installation_breaks_nothing_on_cpu():
    half = Machine(cann_script="/opt/set_env.sh", npus=2, mindspore=True)
    found = texts(check_ascend(facts(machine=half, versions={"torch-npu": "2", "transformers": "5.19.0"})))
    assert {level for level, _ in found} == {"warning"}
    assert found[0][1] == (
        "CANN: is not set up in this shell (ASCEND_HOME_PATH or ASCEND_TOOLKIT_HOME). "
        "Set it up: source /opt/set_env.sh"
    )
    # What is only worth a warning on npu is not worth a line here.
    assert [text.partition(":")[0] for _, text in found[1:]] == [
        "NNAL",
        "vllm-ascend",
        "torch_npu 2",
        "torchvision",
    ]


def test_the_doctor_reads_every_version_that_is_compared():
    assert set(ASCEND_STACKS[0].pins) <= set(DISTRIBUTIONS)
