"""The doctor: imports, the facts of this environment, and the command that shows findings."""

from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner

from mszoo.registry import plugins, versions
from mszoo.registry.cli import build
from mszoo.registry.doctor.environment import DISTRIBUTIONS, read_environment
from mszoo.registry.doctor.imports import check_imports
from mszoo.registry.doctor.settings import VARIABLES

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
