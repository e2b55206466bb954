"""How packages are installed into this environment: commands that are shown to people, and run when they agree."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

Command = tuple[str, ...]


def install(*arguments: str) -> Command:
    """Return the command that installs into this environment, by pip, or by uv where the environment has no pip.

    Args:
        arguments: those of ``pip install``.
    """
    uv = _uv()
    if uv is not None:
        return (uv, "pip", "install", "--python", sys.executable, *arguments)
    return (sys.executable, "-m", "pip", "install", *arguments)


def uninstall(distribution: str) -> Command:
    """Return the command that uninstalls a distribution from this environment, and doesn't ask."""
    uv = _uv()
    if uv is not None:
        return (uv, "pip", "uninstall", "--python", sys.executable, distribution)
    return (sys.executable, "-m", "pip", "uninstall", "-y", distribution)


def _uv() -> str | None:
    # Asked of the whole import system for pip, setuptools gives up replacing distutils in this process.
    return None if PathFinder.find_spec("pip") is not None else shutil.which("uv")


def reinstall() -> Command:
    """Return the command that installs mszoo once more from where it came from, and compiles its kernels.

    From its source folder if it was installed from one (PEP 610), else from its sources on PyPI.
    """
    flags = ("--force-reinstall", "--no-deps", "--no-build-isolation")
    try:
        found = distribution("mszoo")
        origin = json.loads(found.read_text("direct_url.json") or "{}")
        url = urlsplit(origin.get("url", ""))
        if "dir_info" in origin and url.scheme == "file":
            folder = url2pathname(url.path)
            if (Path(folder) / "setup.py").is_file():
                editable = ("-e",) if origin["dir_info"].get("editable") else ()
                return install(*flags, *editable, folder)
        return install(*flags, "--no-binary", "mszoo", f"mszoo=={found.version}")
    except (PackageNotFoundError, ValueError, AttributeError):
        return install(*flags, "--no-binary", "mszoo", "mszoo")
