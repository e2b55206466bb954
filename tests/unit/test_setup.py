"""The set-up: what `make` installs, that it is pinned, and that it is what the suites' adapters need."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from mszoo.registry.catalog import load_catalog
from mszoo.registry.validation import parse_requirement

ROOT = Path(__file__).parents[2]
FILES = sorted(ROOT.glob("requirements-*.txt"))
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def pins(path: Path) -> list[tuple[str, str]]:
    """Return the distributions of a requirements file and their versions; fails where one is not pinned."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.+]+", line) for line in lines)
    return [(canonicalize_name(line.split("==")[0]), line.split("==")[1]) for line in lines]


def dry_run(target: str, folder: Path) -> str:
    """Return the commands that make would run with a virtual environment that is not there yet."""
    command = ["make", "-n", target, f"VENV={folder / 'venv'}"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_everything_is_pinned(path: Path) -> None:
    assert pins(path)


def test_no_distribution_is_pinned_twice() -> None:
    names = [name for path in FILES for name, _ in pins(path)]
    assert sorted(names) == sorted(set(names))


@needs_make
@pytest.mark.parametrize(
    ("target", "wanted"), [("suites", True), ("test", True), ("env", False), ("demo", False), ("lint", False)]
)
def test_who_needs_the_suites(target: str, wanted: bool, tmp_path: Path) -> None:
    commands = dry_run(target, tmp_path)
    assert ("install --no-deps -r requirements-suites.txt" in commands) == wanted
    assert "-r requirements-cpu.txt" in commands


@needs_make
def test_help_lists_the_targets_that_people_use() -> None:
    text = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert re.findall(r"^  make (\w+) +\S", text, re.MULTILINE) == [
        "help", "env", "suites", "demo", "test", "lint", "clean"
    ]  # fmt: skip


def test_the_pins_are_what_our_own_suites_need() -> None:
    pinned = dict(pin for path in FILES for pin in pins(path))
    needed = [
        parse_requirement(text)
        for item in load_catalog({}).discovery.contributions
        if item.plugin.distribution == "mszoo"
        for text in (*item.suite.requires, *(text for model in item.models for text in model.requires))
    ]
    for requirement in needed:
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{requirement} is in no requirements file"
        assert requirement.specifier.contains(pinned[name], prereleases=True), (
            f"{requirement}: {pinned[name]}"
        )
