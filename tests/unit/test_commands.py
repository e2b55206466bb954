"""Commands that other packages add to ``mszoo``: what works, and that a bad one leaves the others alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mszoo.registry import plugins
from mszoo.registry.catalog import Catalog
from mszoo.registry.cli import build, commands, plugin_commands
from mszoo.registry.discovery import discover
from mszoo.registry.fingerprints import codes_of
from mszoo.registry.lock import Lock
from mszoo.registry.lock_guard import release
from mszoo.registry.settings import Settings

GOOD = "def hello(name: str = 'you'):\n    '''Greet somebody.'''\n    print(f'hello {name}')"
GROUP = """
import typer

hello = typer.Typer()

@hello.command()
def a():
    print("a")

@hello.command()
def b():
    print("b")
"""
SLOW = "import time\nstart = time.process_time()\nwhile time.process_time() < start + 0.3: pass\n" + GOOD
BAD = {
    "raises": (
        "raise ValueError('no luck')",
        "can't be loaded (ValueError: no luck (",
        "); the others work.",
    ),
    "exits": ("raise SystemExit(3)", "can't be loaded (SystemExit: 3 (", "); the others work."),
    "nothing": (
        "x = 1",
        "can't be loaded (AttributeError: module '",
        "has no attribute 'hello'",
    ),
    "no_function": ("hello = 3", "can't be loaded (", "); the others work."),
}


@pytest.fixture
def add(make_module, make_entry_point, monkeypatch):
    """Return a function that installs a package with a command, beside those that are installed here."""
    found = commands.readable(commands.GROUP)[0]
    monkeypatch.setattr(commands, "readable", lambda group: (found, []))

    def install(source, name="hello", distribution="mszoo-hello"):
        found.append(make_entry_point(f"{make_module(source)}:hello", name, distribution))

    return install


def run(*arguments):
    return CliRunner().invoke(build(), list(arguments))


def test_a_function_is_a_command(add):
    add(GOOD)
    assert "Greet somebody." in run("--help").stdout
    result = run("hello", "--name", "me")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "hello me\n", "")


def test_a_typer_is_a_group_of_commands(add):
    add(GROUP)
    assert (run("hello", "a").stdout, run("hello", "b").stdout) == ("a\n", "b\n")


@pytest.mark.parametrize("name", BAD)
def test_a_bad_command_is_told_and_the_others_work(add, name):
    source, *texts = BAD[name]
    add(source)
    for arguments, status in ((["--help"], 0), (["hello"], 2)):
        result = run(*arguments)
        assert result.exit_code == status
        line = result.stderr.splitlines()[0]
        assert line.startswith("command 'hello' of mszoo-hello 1.0: ")
        assert all(text in line for text in texts), line
        assert line.endswith("Fix or upgrade mszoo-hello, or uninstall it to go on without the command.")
    result = run("list", "--json")
    assert result.stderr == ""  # nobody asked for it
    assert json.loads(result.stdout)["suites"]


def test_a_slow_command_is_told(add, monkeypatch):
    monkeypatch.setattr(commands, "_SLOW", 0.2)
    add(SLOW)
    result = run("--help")
    assert "Greet somebody." in result.stdout
    (line,) = [line for line in result.stderr.splitlines() if "'hello'" in line]
    assert line.startswith("command 'hello' of mszoo-hello 1.0: takes 0.")
    assert line.endswith(
        "s to import, which delays `mszoo --help`. Import what takes long inside the command's function."
    )


def test_a_name_is_given_once(add):
    add(GOOD, "list")
    add(GOOD, "hello", "mszoo-a")
    add(GOOD, "hello", "mszoo-b")
    result = run("list", "--json")
    assert "suites" in json.loads(result.stdout)
    assert result.stderr.splitlines() == [
        "command 'hello' of mszoo-b 1.0: has the name of one of mszoo-a 1.0; this one is left out. "
        "Rename it, or uninstall mszoo-b.",
        "command 'list' of mszoo-hello 1.0: has the name of one of mszoo; this one is left out. "
        "Rename it, or uninstall mszoo-hello.",
    ]


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from mszoo.registry.cli import build\n"
        "result = CliRunner().invoke(build(), ['--help'])\n"
        "print(result.exit_code, 'explain' in result.stdout, result.stderr,\n"
        "      sorted({'vllm', 'torch', 'mindspore', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout == "0 True  []\n"


def test_under_a_lock_only_listed_distributions_have_commands(add, tmp_path, monkeypatch):
    add("raise SystemExit('it ran')", name="stranger", distribution="stranger-dist")
    add(GOOD, name="listed", distribution="listed-dist")
    add(GOOD, name="changed", distribution="changed-dist")
    entry_points = {item.name: item for item in commands.readable(commands.GROUP)[0]}
    code = {}
    for name in ("listed", "changed"):
        module = entry_points[name].module
        found = codes_of(entry_points[name].dist, module).found
        code[f"{name}-dist"] = {module: found[module].hash if name == "listed" else "sha256:0"}
    Lock("0", "cpu", "0", code=code).write(tmp_path / "the.lock")
    monkeypatch.setenv("MSZOO_LOCK", str(tmp_path / "the.lock"))
    try:
        result = run("--help")
        assert run("listed").stdout == "hello you\n"
    finally:
        release()
    assert result.exit_code == 0
    assert "listed" in result.stdout
    lines = sorted(result.stderr.splitlines())
    assert len(lines) == 2
    assert lines[0].startswith(
        "command 'changed' of changed-dist 1.0: can't be loaded (LockError: changed-dist: the code of "
    )
    assert lines[1] == (
        "command 'stranger' of stranger-dist 1.0: is left out: the lock of MSZOO_LOCK doesn't list its "
        "distribution. Lock it with `mszoo lock`, or unset MSZOO_LOCK."
    )


COMMANDS = """
@hookimpl
def mszoo_commands():
    return {commands}
"""
BAD_NAME = "Name it in lower case, and its function as 'module:function'."
NO_MAPPING = "Return names and 'module:object' of functions."
KEPT = [
    ("{'Bad Name': 'a:b'}", f"its command 'Bad Name' is 'a:b'; it is left out. {BAD_NAME}"),
    ("{'hello': 'no path'}", "its command 'hello' is 'no path'; it is left out"),
    ("{'list': 'a:b'}", "its command 'list' has the name of another; it is left out. Rename it."),
    ("['hello']", f"mszoo_commands returned a list instead of a mapping. {NO_MAPPING}"),
    ("{}[1]", "mszoo_commands raised KeyError: 1"),
]


def plugins_are(monkeypatch, *entry_points):
    monkeypatch.setattr(plugins, "readable", lambda group: (list(entry_points), []))


def test_a_plugin_adds_a_command(make_plugin, make_module, monkeypatch):
    commands = repr({"greet": f"{make_module(GOOD)}:hello"})
    plugins_are(monkeypatch, make_plugin(COMMANDS.format(commands=commands), "polite", "polite-dist"))
    assert run("greet", "--name", "me").stdout == "hello me\n"
    assert "Greet somebody." in run("--help").stdout
    assert run("list").exit_code == 0


@pytest.mark.parametrize(("commands", "told"), KEPT)
def test_a_bad_command_of_a_plugin_is_named(commands, told, make_plugin, monkeypatch):
    plugins_are(monkeypatch, make_plugin(COMMANDS.format(commands=commands), "polite", "polite-dist"))
    result = run("hello")
    assert result.exit_code == 2
    assert f"plugin 'polite' (polite-dist 1.0): {told}" in result.stderr


def test_under_a_lock_a_command_is_of_the_plugins_package(make_plugin, make_entry_point, monkeypatch):
    plugin = make_plugin(COMMANDS.format(commands="{'greet': 'json:dumps'}"), "polite", "polite-dist")
    catalog = Catalog(discover(Settings(), [plugin]), Settings(lock=Path("x")))
    monkeypatch.setattr(plugin_commands, "load_catalog", lambda device: catalog)
    found, (problem,) = plugin_commands.commands_of_plugins(())
    assert found == {}
    told = "its command 'greet' is code of another package, which the lock doesn't hold. Name a function of "
    assert told in str(problem)
