"""The packages of the how-to pages' own blocks give the right results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import book_packages, tutorial


@pytest.mark.long
@pytest.mark.parametrize("page", book_packages.PAGES)
def test_a_package_of_a_page_passes(page: str, tmp_path: Path) -> None:
    package = book_packages.make(page, tmp_path)
    mszoo = (sys.executable, "-c", "from mszoo.registry.cli import main; main()")
    done = subprocess.run(
        [*mszoo, "check", "acme", "--tier", "numeric"],
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
        env=tutorial.install(package),
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
