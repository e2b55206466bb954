"""Packages that ``mszoo new`` writes, but for the decoder's (test_example_plugin): their results are right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

MSZOO = [sys.executable, "-c", "from mszoo.registry.cli import main; main()"]


@pytest.mark.parametrize("kind", ["encoder", "multimodal", "cells", "layer", "op"])
def test_results(kind: str, tmp_path: Path) -> None:
    name = f"mszoo-{kind}-trial"
    folder = tmp_path / name
    subprocess.run([*MSZOO, "new", name, "--kind", kind, "--directory", str(folder)], check=True, timeout=120)
    # Installed as pip does it, without pip.
    info = folder / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    points = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"]
    groups = (
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in found.items())
        for group, found in points.items()
    )
    (info / "entry_points.txt").write_text("\n".join(groups))
    command = [*MSZOO, "check", f"{kind}_trial", "--tier", "numeric", "--json"]
    environ = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, env=environ, check=False, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    adapters = json.loads(done.stdout)["adapters"]
    # The suite, what it gives; cells that are replaced are judged by the model that holds them.
    expected = ["not run", "passed", *(["skipped"] * 2 if kind == "cells" else [])]
    assert [item["tiers"]["numeric"] for item in adapters] == expected
