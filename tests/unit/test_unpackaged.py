"""MSZOO_PLUGINS: plugins without packaging."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mszoo.registry.errors import SettingsError
from mszoo.registry.settings import Settings
from mszoo.registry.unpackaged import unpackaged

SOURCE = """
from mszoo.registry import ModelAdapter, Suite, hookimpl

@hookimpl
def mszoo_suite():
    return Suite("tried")

@hookimpl
def mszoo_model_adapters():
    return [ModelAdapter("TriedForCausalLM", f"{__name__}.model:Model")]
"""


def mszoo(*arguments, folder, **environ):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MSZOO_")}
    command = [sys.executable, "-c", "from mszoo.registry.cli import main; main()", *arguments]
    return subprocess.run(
        command, cwd=folder, env=clean | environ, check=False, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def folder(tmp_path):
    package = tmp_path / "tried_package"
    package.mkdir()
    (package / "__init__.py").write_text(SOURCE)
    (package / "model.py").write_text("class Model:\n    pass\n")
    alone = SOURCE.replace('"tried"', '"tried_too"').replace("}.model:", "}:")
    (tmp_path / "tried_file.py").write_text(f"{alone}\nclass Model:\n    pass\n")
    return tmp_path


def test_a_folder_a_file_and_a_module(folder):
    done = mszoo("list", "--json", folder=folder, MSZOO_PLUGINS="./tried_package, tried_file.py")
    report = json.loads(done.stdout)
    assert report["problems"] == []
    assert done.returncode == 0
    (model,) = [item for item in report["architectures"] if item["architecture"] == "TriedForCausalLM"]
    found = {item["name"]: item["distribution"] for item in model["candidates"]}
    assert found == {
        "tried.TriedForCausalLM": "tried_package of MSZOO_PLUGINS",
        "tried_too.TriedForCausalLM": "tried_file of MSZOO_PLUGINS",
    }
    done = mszoo("list", "--json", folder=folder, MSZOO_PLUGINS="tried_package", PYTHONPATH=str(folder))
    assert "tried.TriedForCausalLM" in done.stdout
    # Nobody is told of it where it isn't asked for.
    assert "tried" not in mszoo("list", "--json", folder=folder).stdout


BAD = {
    "./absent": "which is neither a Python file nor a folder with an __init__.py. "
    "Name the file or the package with the hooks.",
    "./other/json.py": "json.py, and Python has another json: ",
    "absent_module": "can't be loaded (ModuleNotFoundError: No module named 'absent_module')",
}


@pytest.mark.parametrize("value", BAD)
def test_what_is_no_plugin_is_named_and_the_rest_counts(value, folder):
    (folder / "other").mkdir()
    (folder / "other" / "json.py").write_text(SOURCE)
    done = mszoo("list", "--json", folder=folder, MSZOO_PLUGINS=f"{value},./tried_package")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    (problem,) = report["problems"]
    assert BAD[value] in f"{problem['what']}. {problem['mend']}"
    assert "tried.TriedForCausalLM" in done.stdout
    if value == "./other/json.py":
        assert problem["mend"] == "Rename the file or folder."


def test_a_value_that_names_nothing():
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ({"MSZOO_PLUGINS": "a,no plugin"})
    assert str(caught.value) == (
        "MSZOO_PLUGINS: 'no plugin' is neither a module nor a path. "
        "Name modules, files or folders, separated by commas: my_plugin, ./my_plugin.py."
    )
    found = Settings.from_environ({"MSZOO_PLUGINS": "a.b, ./c/d.py,e.py,"}).plugins
    assert found == ("a.b", str(Path("c/d.py").absolute()), str(Path("e.py").absolute()))


def test_where_none_may_be_loaded_the_path_stays_as_it_is(folder):
    for importable in (True, False):
        path = list(sys.path)
        try:
            points, problems = unpackaged([str(folder / "tried_package")], "mszoo", importable=importable)
            assert ([item.name for item in points], problems) == (["tried_package"], [])
            assert (str(folder) in sys.path) == importable
        finally:
            sys.path[:] = path


def test_a_lock_leaves_them_out_and_is_not_written_with_them(folder):
    assert mszoo("lock", "a.lock", folder=folder).returncode == 0
    done = mszoo("list", folder=folder, MSZOO_PLUGINS="./tried_package", MSZOO_LOCK="a.lock")
    assert "TriedForCausalLM" not in done.stdout
    assert "Not in the lock, so not loaded: tried_package" in done.stdout
    done = mszoo("lock", "b.lock", folder=folder, MSZOO_PLUGINS="./tried_package")
    assert done.returncode == 2
    assert done.stderr == (
        "MSZOO_PLUGINS: names plugins that are not packaged, and a lock holds to distributions. "
        "Unset it, or package them: mszoo new.\n"
    )
    assert not (folder / "b.lock").exists()
