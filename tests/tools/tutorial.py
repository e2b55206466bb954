"""The package that a reader of registry/docs/tutorial.md has, made of the page's own blocks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import tomllib

from mszoo.registry.cli.new import names_of, write
from tests.tools.pages import ROOT, blocks

PAGE = ROOT / "registry" / "docs" / "tutorial.md"
NAME = "mszoo-acme"


def make_package(folder: Path) -> Path:
    """Write the package as `mszoo new` does, then as the page changes it; gives its folder."""
    package = folder / NAME
    write(names_of(NAME), package)
    change(package)
    return package


def change(package: Path) -> None:
    """Do what section 2 and 3 of the page say."""
    model, tests = (block.text for block in blocks(PAGE) if block.language == "python")
    (package / "mszoo_acme" / "model.py").write_text(model, "utf-8")
    conformance = package / "mszoo_acme" / "conformance.py"
    text = conformance.read_text("utf-8")
    head, tail = text.index("class TestAcme"), text.index("def _norm")
    conformance.write_text(f"{text[:head]}{tests}\n\n{text[tail:]}", "utf-8")


def install(package: Path) -> dict[str, str]:
    """Do what `pip install -e` does, without pip; gives the environment in which the package is installed."""
    info = package / "mszoo_acme-0.1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 0.1.0\n")
    points = tomllib.loads((package / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    groups = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in found.items()) for group, found in points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MSZOO_")}
    return inherited | {"PYTHONPATH": str(package)}


def mszoo(
    arguments: Sequence[str], folder: Path, environ: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command of mszoo's in a folder; its exit status is the caller's to judge."""
    return subprocess.run(
        [sys.executable, "-c", "from mszoo.registry.cli import main; main()", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
        cwd=folder,
        env=environ,
    )
