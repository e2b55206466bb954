"""Plugins without packaging, for trying: the modules, files and folders of MSZOO_PLUGINS."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from typing import Any

from mszoo.registry.errors import Problem

VARIABLE = "MSZOO_PLUGINS"


class Unpackaged(Distribution):
    """Stands where an installed plugin has its distribution."""

    def __init__(self, name: str) -> None:
        self._text = f"Metadata-Version: 2.1\nName: {name} of {VARIABLE}\nVersion: unpackaged\n"

    def read_text(self, filename: str) -> str | None:
        """Return its metadata; it has no other file."""
        return self._text if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        """Raise FileNotFoundError: it was not installed."""
        raise FileNotFoundError(path)


def unpackaged(
    items: Iterable[str], group: str, *, importable: bool = True
) -> tuple[list[EntryPoint], list[Problem]]:
    """Return entry points for the plugins of MSZOO_PLUGINS, and a problem for each that can't be one.

    The folder that holds a file or a package is appended to ``sys.path``, as its modules are named by records and
    imported where a model is built.

    Args:
        items: names of modules, and absolute paths.
        group: that of plugins.
        importable: whether any of them may be loaded; ``sys.path`` stays as it is if not.
    """
    found: list[EntryPoint] = []
    problems: list[Problem] = []
    for item in items:
        module = item
        if Path(item).is_absolute():
            path = Path(item)
            # os.path's: a path that is too long for a file system is no file, either.
            module, is_package = path.stem, os.path.isfile(path / "__init__.py")
            if not is_package and not (path.suffix == ".py" and os.path.isfile(path)):
                what = f"names {item}, which is neither a Python file nor a folder with an __init__.py"
                hint = "Name the file or the package with the hooks."
                problems.append(Problem(VARIABLE, what, hint))
                continue
            if importable and str(path.parent) not in sys.path:
                sys.path.append(str(path.parent))
            importlib.invalidate_caches()
            other = _origin(module) if importable else path
            if other not in (path, path / "__init__.py"):
                what = f"names {item}, and Python has another {module}: {other}"
                problems.append(Problem(VARIABLE, what, "Rename the file or folder."))
                continue
        entry_point = EntryPoint(module.rpartition(".")[2], module, group)
        vars(entry_point).update(dist=Unpackaged(module))
        found.append(entry_point)
    return found, problems


def _origin(module: str) -> Path | None:
    """Return the file that a module would be loaded from; None where Python finds none."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None
