"""``mszoo new``: what it writes installs and passes ``mszoo check`` at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

MAIN = "from mszoo.registry.cli import main; main()"


def test_a_new_package_installs_and_passes(tmp_path: Path) -> None:
    source, site = tmp_path / "acme", tmp_path / "site"

    def run(*arguments: str) -> str:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MSZOO_")}
        result = subprocess.run(
            [sys.executable, *arguments],
            check=False,
            env=inherited | {"PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert result.returncode == 0, result.stderr + result.stdout
        return result.stdout

    run("-c", MAIN, "new", "acme-llm", "--directory", str(source))
    pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-build-isolation",
    ]
    run(*pip, "--no-index", "--target", str(site), str(source))
    report = json.loads(run("-c", MAIN, "check", "acme_llm", "--tier", "numeric", "--json"))
    tiers = {item["adapter"]: item["tiers"] for item in report["adapters"]}
    assert tiers["acme_llm"]["static"] == "passed"
    assert tiers["acme_llm.AcmeLlmForCausalLM"] == {
        "static": "passed",
        "numeric": "passed",
        "engine": "not run",
    }
    # Its own tests, with pytest.
    options = ["-q", "--mszoo-tier", "static", "-p", "no:cacheprovider", "-c", str(source / "pyproject.toml")]
    assert " passed" in run("-m", "pytest", *options, str(source / "tests"))
