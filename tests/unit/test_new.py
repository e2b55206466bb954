"""``mszoo new``: names, what is refused, and that the example plugin is what it writes."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
from typer.testing import CliRunner

from mszoo.registry import plugins
from mszoo.registry.cli import build
from mszoo.registry.cli.new import KINDS, Names, names_of, write
from mszoo.registry.errors import MszooError

EXAMPLE = Path(__file__).parents[1] / "example_plugin"


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(plugins, "readable", lambda group: ([], []))
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    return CliRunner().invoke(build(), ["new", *arguments])


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and not {"__pycache__", "build"} & set(path.parts) and "egg-info" not in str(path)
    }


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("mszoo-example", ("mszoo_example", "example", "Example")),
        ("Acme.LLM-models", ("acme_llm_models", "acme_llm_models", "AcmeLlmModels")),
        ("x", ("x", "x", "X")),
    ],
)
def test_names(name, names):
    assert names_of(name) == Names(name, *names)


def test_the_example_plugin_is_what_it_writes(tmp_path):
    files = write(names_of("mszoo-example"), tmp_path / "new")
    written = contents(tmp_path / "new")
    assert sorted(written) == files
    assert written == contents(EXAMPLE)


def test_every_name_is_filled_in(tmp_path):
    result = run("acme-llm", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert list(report) == [
        "distribution",
        "package",
        "suite",
        "prefix",
        "kind",
        "subject",
        "architecture",
        "directory",
        "files",
    ]
    assert (report["suite"], report["architecture"]) == ("acme_llm", "AcmeLlmForCausalLM")
    assert report["directory"] == str(tmp_path / "acme-llm")
    written = contents(tmp_path / "acme-llm")
    assert sorted(written) == report["files"]
    for name, text in written.items():
        for left in ("@PACKAGE@", "@SUITE@", "@PREFIX@", "@DISTRIBUTION@", "mszoo_example", "ExampleFor"):
            assert left not in name + text
        if name.endswith(".py"):
            ast.parse(text)


def test_it_says_what_to_do_next(tmp_path):
    result = run("acme-llm", "--directory", "deep/er")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == f"{tmp_path}/deep/er/.github/workflows/check.yml"
    assert result.stdout.endswith(f"\nTry it: pip install -e {tmp_path}/deep/er && mszoo check acme_llm\n")


def test_nothing_is_overwritten(tmp_path):
    folder = tmp_path / "acme-llm"
    (folder / "acme_llm").mkdir(parents=True)
    (folder / "acme_llm" / "model.py").write_text("mine")
    (folder / "README.md").symlink_to("nowhere")
    result = run("acme-llm")
    assert result.exit_code == 2
    assert result.stderr == (
        f"{folder}: holds README.md, acme_llm/model.py already. Give another --directory; nothing was written.\n"
    )
    assert sorted(path.name for path in folder.rglob("*")) == ["README.md", "acme_llm", "model.py"]
    assert (folder / "acme_llm" / "model.py").read_text() == "mine"


def test_a_folder_with_other_files_is_fine(tmp_path):
    (tmp_path / "acme-llm" / ".git").mkdir(parents=True)
    assert run("acme-llm").exit_code == 0


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MszooError) as caught:
        write(names_of("acme-llm"), tmp_path / "file" / "x")
    assert str(caught.value).startswith(f"{tmp_path}/file/x: can't be written (Not a directory: ")


def test_a_failure_leaves_nothing_and_can_be_retried(tmp_path, monkeypatch):
    folder, names = tmp_path / "deep" / "acme", names_of("acme-llm")
    opened, real = [], Path.open

    def full(path, mode="r", **options):
        if mode == "x":
            opened.append(path)
            if len(opened) == 4:
                raise OSError(28, "No space left on device", str(path))
        return real(path, mode, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(MszooError, match="No space left on device"):
        write(names, folder)
    assert list(tmp_path.iterdir()) == []
    write(names, folder)
    assert (folder / "pyproject.toml").is_file()


WORD = "Choose a name that begins with a letter and is no word of Python's, such as mszoo-example."
LETTERS = "Use letters, digits, '-', '_' and '.', such as mszoo-example."


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", f"'' can't be the name of a distribution. {LETTERS}"),
        ("a b", f"'a b' can't be the name of a distribution. {LETTERS}"),
        ("../evil", f"'../evil' can't be the name of a distribution. {LETTERS}"),
        ("-x", None),
        ("7b-models", f"no Python package of your own can be called '7b_models'. {WORD}"),
        ("class", f"no Python package of your own can be called 'class'. {WORD}"),
        ("json", f"no Python package of your own can be called 'json'. {WORD}"),
        ("mszoo-7b", f"no suite can be called '7b'. {WORD}"),
        ("mszoo-vllm", f"no suite can be called 'vllm'. {WORD}"),
        ("native", "there is a suite 'native' already. Choose another name."),
        ("mszoo-mindformers", "there is a suite 'mindformers' already. Choose another name."),
        ("pluggy", "a distribution pluggy is installed already. Choose another name."),
        ("_pytest", f"'_pytest' can't be the name of a distribution. {LETTERS}"),
        ("PyTest", "a distribution PyTest is installed already. Choose another name."),
        (
            "mszoo-decoder",
            "the package's DecoderForCausalLM would hide the one that it is derived from. Choose another name.",
        ),
        ("attr", "a Python package attr is installed already. Choose another name."),
    ],
)
def test_names_that_are_refused(name, message, tmp_path):
    result = run(name)
    assert result.exit_code == 2
    if message is not None:
        assert result.stderr == f"mszoo new: {message}\n"
    assert list(tmp_path.iterdir()) == []


def test_caches_that_pip_left_behind_are_no_package(tmp_path, monkeypatch):
    caches = tmp_path / "site" / "acme_llm" / "__pycache__"
    caches.mkdir(parents=True)
    (caches / "conformance.cpython-311-pytest-9.2.0.pyc").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert run("acme-llm").exit_code == 0
    (caches.parent / "part.py").write_text("")
    assert run("acme_llm", "--directory", "again").stderr == (
        "mszoo new: a Python package acme_llm is installed already. Choose another name.\n"
    )


def test_the_name_of_another_suite_is_refused(make_plugin, monkeypatch):
    entry_point = make_plugin('@hookimpl\ndef mszoo_suite():\n    return Suite("acme")', name="other")
    monkeypatch.setattr(plugins, "readable", lambda group: ([entry_point], []))
    assert run("mszoo-acme").stderr == "mszoo new: there is a suite 'acme' already. Choose another name.\n"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_a_whole_package_that_passes_the_static_tier(kind, tmp_path):
    report = json.loads(run("acme-llm", "--kind", kind, "--json").stdout)
    assert (report["kind"], "architecture" in report) == (kind, KINDS[kind].noun == "model")
    folder = Path(report["directory"])
    for name, text in contents(folder).items():
        assert "@" not in text.replace("@hookimpl", "").replace("@classmethod", "").replace(
            " @ ", ""
        ).replace("actions/checkout@v4", "").replace("actions/setup-python@v5", ""), name
        if name.endswith(".py"):
            ast.parse(text)
    # Installed as pip does it, without pip.
    info = folder / "acme_llm-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-llm\nVersion: 0.1.0\n")
    points = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in found.items()) for group, found in points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    command = [sys.executable, "-c", "from mszoo.registry.cli import main; main()"]
    command += ["check", "acme_llm", "--tier", "static", "--json"]
    environ = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        command,
        env=environ,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    report = json.loads(done.stdout)
    outcomes = {item["test"]: item["outcome"] for adapter in report["adapters"] for item in adapter["tests"]}
    assert done.returncode == 0, done.stdout
    assert set(outcomes.values()) <= {"passed", "skipped"}
    assert {"model": "test_example_config", "layer": "test_target_exists", "op": "test_op_exists"}[
        KINDS[kind].noun
    ] in outcomes
