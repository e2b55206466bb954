"""Hashes the code of plugins where it lies; nothing of it is imported."""

from __future__ import annotations

import hashlib
import importlib.machinery
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution
from pathlib import Path, PurePosixPath

from mszoo.registry.objects import find_module

_CODE = (
    *importlib.machinery.SOURCE_SUFFIXES,
    *importlib.machinery.EXTENSION_SUFFIXES,
    *importlib.machinery.BYTECODE_SUFFIXES,  # Python imports it where there is no source
    ".so",
)
_CACHE = "__pycache__"


def module_hash(module: str) -> str | None:
    """Return ``sha256:<hex>`` of a module's file; None if there is no such module or it is no file."""
    spec = _find(module)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    return f"sha256:{_hash(Path(spec.origin))}"


def code_hash(distribution: Distribution | None, module: str) -> str:
    """Return ``sha256:<hex>`` of the names and contents of all code files of a distribution.

    They are those that would be imported: in the packages that its RECORD names, where the import system finds
    them, also files that were added there, and the single modules that it names. An editable installation records
    none; then they are those under the top-level package of ``module``. Both give the same hash for the same code.

    Args:
        distribution: whose code; None for a damaged installation.
        module: a module of it.
    """
    recorded = dict(_recorded(distribution)) if distribution is not None else {}
    if recorded:
        files = dict(recorded)
        for package in _packages(recorded):
            files.update(_loaded(package, recorded))
    else:
        files = dict(_loaded(module.partition(".")[0], {}))
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0{_hash(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _find(module: str) -> importlib.machinery.ModuleSpec | None:
    # A lock file may hold any text.
    return find_module(module) if all(module.split(".")) else None


def _recorded(distribution: Distribution) -> Iterator[tuple[str, Path]]:
    for file in distribution.files or ():
        # An editable installation records the code that finds its code, under a name of this form.
        inside = ".." not in file.parts and _CACHE not in file.parts
        if file.name.endswith(_CODE) and inside and not file.name.startswith("__editable__"):
            yield file.as_posix(), Path(str(file.locate()))


def _packages(recorded: Mapping[str, Path]) -> set[str]:
    """Return the outermost packages that have code of their own, and the single modules, by their names."""
    folders = sorted({PurePosixPath(name).parent.parts for name in recorded} - {()})
    outermost = {
        parts for parts in folders if not any(parts[:count] in folders for count in range(1, len(parts)))
    }
    single = {name.partition(".")[0] for name in recorded if "/" not in name}
    return {".".join(parts) for parts in outermost} | single


def _loaded(package: str, recorded: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    """Give the code files of a package where the import system finds it, as its files are recorded."""
    prefix = package.replace(".", "/")
    own = {name: path for name, path in recorded.items() if name.startswith(f"{prefix}/")}
    spec = _find(package)
    if spec is None:
        # Nothing finds it now, so it lies where it was recorded.
        folders = {path.parents[name.count("/") - prefix.count("/") - 1] for name, path in own.items()}
    elif spec.submodule_search_locations is None:
        if spec.origin is not None and Path(spec.origin).is_file():
            yield Path(spec.origin).name, Path(spec.origin)
        return
    else:
        folders = {Path(location) for location in spec.submodule_search_locations}
    for folder in sorted(folders):
        for name in own:
            yield name, folder / name.removeprefix(f"{prefix}/")
        for path in folder.rglob("*"):
            inside = path.relative_to(folder)
            if path.name.endswith(_CODE) and _CACHE not in inside.parts and path.is_file():
                yield f"{prefix}/{inside.as_posix()}", path


def _hash(path: Path) -> str:
    try:
        # A pipe or device would never end.
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "unreadable"
    except OSError:
        return "unreadable"  # a recorded file that is gone is a change, too
