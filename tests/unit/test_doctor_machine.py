"""The doctor on the machine: compiled kernels, and Ascend."""

from __future__ import annotations

from mszoo.registry.doctor.ascend import check_ascend
from mszoo.registry.doctor.kernels import check_kernels, library_name

from .doctor_facts import GOOD, ROOT, facts, texts


def test_kernels():
    mend = "pip install --force-reinstall --no-deps --no-build-isolation ."
    (finding,) = check_kernels(facts(kernel_libraries=("cpu_ops.torch-2.12.0.so",)))
    assert (finding.level, str(finding)) == (
        "warning",
        "mszoo: has no compiled kernels for torch 2.13.0+cpu, and is slower without them (they were compiled for "
        f"torch 2.12.0). In mszoo's source folder: {mend}",
    )
    (finding,) = check_kernels(facts(kernel_libraries=(), compiler=False))
    assert str(finding) == (
        "mszoo: has no compiled kernels for torch 2.13.0+cpu, and is slower without them. In mszoo's source "
        f"folder: install a C++ compiler (apt-get install g++), then {mend}"
    )
    (finding,) = check_kernels(facts(kernel_libraries=None))
    assert (finding.level, str(finding)) == (
        "problem",
        f"mszoo: lacks its package mszoo.kernels. In mszoo's source folder: {mend}",
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


def test_ascend_without_anything():
    assert texts(check_ascend(facts("npu"))) == [
        (
            "problem",
            "this machine: shows no Ascend device (/dev/davinci*). Install Ascend's driver, or pass the devices to "
            "the container; see them with: npu-smi info",
        ),
        (
            "problem",
            "CANN: is not installed in its usual place (ASCEND_HOME_PATH or ASCEND_TOOLKIT_HOME). "
            "Install it, then set it up: source /usr/local/Ascend/ascend-toolkit/set_env.sh",
        ),
        (
            "problem",
            "torch_npu: is not installed. Install the one for your torch: pip install torch-npu==2.13.0",
        ),
        (
            "problem",
            "vllm-ascend: is not installed. "
            "Install vLLM's platform for Ascend: pip install 'vllm-ascend>=0.23'",
        ),
        (
            "problem",
            "mindspore 2.10.0: has no Ascend backend in it. "
            "Install one that has it: pip install --force-reinstall --no-deps mindspore==2.10.0",
        ),
        (
            "info",
            "mszoo: has not been tested on Ascend. "
            "Compare answers with vLLM's own model: export MSZOO_DISABLE=1",
        ),
    ]


def test_ascend_with_all_of_it_and_with_half():
    ready = {
        "versions": {"vllm-ascend": "0.23.0", "torch-npu": "2.13.0"},
        "platform_plugins": ("ascend",),
        "environ": {"ASCEND_TOOLKIT_HOME": "/opt/cann"},
        "npus": 8,
        "mindspore_ascend": True,
    }
    assert [level for level, _ in texts(check_ascend(facts("npu", **ready)))] == ["info"]
    half = {
        "cann_script": "/opt/set_env.sh",
        "npus": 1,
        "versions": {"vllm-ascend": "0.23.0", "torch-npu": "2"},
    }
    assert texts(check_ascend(facts(mindspore_ascend=True, **half))) == [
        (
            "warning",
            "CANN: is not set up in this shell (ASCEND_HOME_PATH or ASCEND_TOOLKIT_HOME). "
            "Set it up: source /opt/set_env.sh",
        ),
        (
            "warning",
            "vllm-ascend: declares no platform for vLLM. "
            "Install it again: pip install --force-reinstall --no-deps vllm-ascend",
        ),
    ]
