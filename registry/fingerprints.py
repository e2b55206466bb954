"""Hashes the code of plugins where it lies; nothing of it is imported."""

from __future__ import annotations

import hashlib
import importlib.machinery
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path

from mszoo.registry.objects import find_module

_CODE = (*importlib.machinery.SOURCE_SUFFIXES, *importlib.machinery.EXTENSION_SUFFIXES, ".so")


def module_hash(module: str) -> str | None:
    """Return ``sha256:<hex>`` of a module's file; None if there is no such module or it is no file."""
    spec = _find(module)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    return f"sha256:{_hash(Path(spec.origin))}"


def code_hash(distribution: Distribution | None, module: str) -> str:
    """Return ``sha256:<hex>`` of the names and contents of all code files of a distribution.

    They are the files that its RECORD lists. An editable installation records none; then they are those under
    the top-level package of ``module``. Both give the same hash for the same code.

    Args:
        distribution: whose code; None for a damaged installation.
        module: a module of it.
    """
    files = dict(_recorded(distribution)) if distribution is not None else {}
    digest = hashlib.sha256()
    for name, path in sorted((files or dict(_beside(module))).items()):
        digest.update(f"{name}\0{_hash(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _find(module: str) -> importlib.machinery.ModuleSpec | None:
    # A lock file may hold any text.
    return find_module(module) if all(module.split(".")) else None


def _recorded(distribution: Distribution) -> Iterator[tuple[str, Path]]:
    for file in distribution.files or ():
        # An editable installation records the code that finds its code, under a name of this form.
        if file.name.endswith(_CODE) and ".." not in file.parts and not file.name.startswith("__editable__"):
            yield file.as_posix(), Path(str(file.locate()))


def _beside(module: str) -> Iterator[tuple[str, Path]]:
    top = module.partition(".")[0]
    spec = _find(top)
    if spec is None:
        return
    if spec.submodule_search_locations is None:
        if spec.origin is not None:
            yield Path(spec.origin).name, Path(spec.origin)
        return
    for location in spec.submodule_search_locations:
        for path in Path(location).rglob("*"):
            if path.name.endswith(_CODE) and path.is_file():
                yield f"{top}/{path.relative_to(location).as_posix()}", path


def _hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "unreadable"  # a recorded file that is gone is a change, too
