"""Finds the source of what a record names, as ``module:object``, without importing any of it."""

from __future__ import annotations

import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

# With one of these a module may have names that its text doesn't show.
_DYNAMIC = re.compile(rb"import\s+\*|__getattr__|globals\(\)|setattr\(|exec\(")


def find_module(name: str) -> ModuleSpec | None:
    """Return the spec of a module, or None; unlike importlib's find_spec, no parent package is run."""
    spec: ModuleSpec | None = None
    path = None
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        spec = _find(".".join(parts[:count]), path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
        if path is None and count < len(parts):
            return None
    return spec


def missing_object(path: str) -> str | None:
    """Say in a clause why ``module:object`` can't be there; None if it may be.

    A module that makes its names at run time gets the benefit of the doubt.
    """
    module, _, name = path.partition(":")
    spec = find_module(module)
    if spec is None:
        return f"names {path}, and there is no module {module}"
    if spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        source = Path(spec.origin).read_bytes()
    except OSError as error:
        return f"names {path}, and {module} can't be read ({error.strerror})"
    first = name.partition(".")[0]
    if re.search(rb"\b" + first.encode() + rb"\b", source) or _DYNAMIC.search(source):
        return None
    return f"names {path}, and module {module} has no {first}"


def _find(name: str, path: object) -> ModuleSpec | None:
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path)  # type: ignore[arg-type]
        if spec is not None:
            return spec
    return None
