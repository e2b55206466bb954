"""Hashes code where it lies: what the import system would load, module by module; nothing of it is imported."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.machinery
import os
import pkgutil
import re
import sys
import zipimport
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution
from pathlib import Path, PurePosixPath
from typing import Any

from mszoo.registry.objects import find_child, find_module, locations_of
from mszoo.registry.text import printable, type_name

#: The hash of a package that has no code of its own: a namespace.
NAMESPACE = "namespace"
#: The hash of what another loader than Python's own brings begins with it: nobody knows what would run.
LOADER = "loader "
_GONE = "unreadable"

_SUFFIXES = (
    *importlib.machinery.EXTENSION_SUFFIXES,
    *importlib.machinery.SOURCE_SUFFIXES,
    *importlib.machinery.BYTECODE_SUFFIXES,  # Python imports it where there is no source
)
_LIBRARY = re.compile(r"\.so(\.\d+)*$")
_CACHE = "__pycache__"
_PIECE = 1 << 20
_DEEPEST = 20  # namespaces in namespaces: links may make circles
# Whoever overrides none of these brings what lies in the file.
_METHODS = (
    *("create_module", "exec_module", "load_module", "get_code", "get_data", "source_to_code"),
    *("get_filename", "path_stats"),
)
_LOADERS = (
    importlib.machinery.SourceFileLoader,
    importlib.machinery.SourcelessFileLoader,
    importlib.machinery.ExtensionFileLoader,
)
_NAMESPACE_LOADER = getattr(importlib.machinery, "NamespaceLoader", None)  # none before Python 3.11
_PTH_IMPORT = re.compile(r"^import\s+(\w+)", re.MULTILINE)


@dataclass(frozen=True)
class Code:
    """What would run for a module, or a file of compiled code that is none.

    Args:
        hash: ``sha256:<hex>`` of its file, or :data:`NAMESPACE`, or what begins with :data:`LOADER`.
        where: its file.
        content: of that file; empty for compiled code.
    """

    hash: str
    where: str
    content: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Codes:
    """The code of a distribution.

    Args:
        found: by name of module, and by path for files of code that no module is, such as libraries.
        roots: the folders that an editable installation put on ``sys.path``.
    """

    found: Mapping[str, Code]
    roots: tuple[str, ...] = ()


def module_hash(module: str) -> str | None:
    """Return ``sha256:<hex>`` of a module's file; None if there is no such module or it is no file."""
    # A lock file may hold any text.
    spec = find_module(module) if all(module.split(".")) else None
    code = None if spec is None else code_of(spec)
    return None if code is None or code.hash == NAMESPACE else code.hash


def code_of(spec: ModuleSpec) -> Code | None:
    """Return what a spec would load; None for what is part of Python itself."""
    loader: Any = spec.loader
    if loader is None or type(loader) is _NAMESPACE_LOADER:
        return Code(NAMESPACE, ", ".join(locations_of(spec)))
    if type(loader) is zipimport.zipimporter:
        return _from_zip(loader, spec)
    if _is_pytests(loader):  # it adds to asserts what they compare
        return _from_source(str(spec.origin))
    kind = next((item for item in _LOADERS if isinstance(loader, item)), None)
    if kind is not None and all(_brings_its_file(type(loader), kind, name) for name in _METHODS):
        path = str(loader.path)
        if kind is importlib.machinery.ExtensionFileLoader:
            return Code(file_hash(path), path)
        return _from_source(path)
    name = f"{LOADER}{type(loader).__module__}.{type_name(loader)}"
    return None if spec.origin in ("built-in", "frozen") else Code(name, str(spec.origin or "no file"))


def _brings_its_file(loader: type, kind: type, method: str) -> bool:
    return getattr(loader, method, None) is getattr(kind, method, None)


def file_hash(path: str) -> str:
    """Return ``sha256:<hex>`` of a file of any size."""
    digest = hashlib.sha256()
    try:
        if not os.path.isfile(path):
            return _hash(None)
        with open(path, "rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    except (OSError, ValueError):
        return _hash(None)
    return f"sha256:{digest.hexdigest()}"


def codes_of(distribution: Distribution | None, module: str) -> Codes:
    """Return what the import system would load of a distribution, and the files of compiled code beside it.

    The packages and single modules are those that its RECORD names. An editable installation records none but
    what finds them: then they are those that its finder, its top_level.txt or its entry points name, and what
    lies in the folders that it puts on ``sys.path``. Where the code of each lies now is asked of the import system:
    files that were added, and packages that others hide, are seen. Both ways give the same for the same code.

    Args:
        distribution: whose code; None for a damaged installation.
        module: a module of it.
    """
    importlib.invalidate_caches()  # what was added a moment ago, too
    recorded = _recorded(distribution)
    roots: tuple[str, ...] = ()
    loaders = _pth_files(distribution, recorded) if distribution is not None else {}
    names = _packages(recorded)
    if names <= loaders.keys():
        folder = str(distribution.locate_file("")) if distribution is not None and loaders else ""
        roots = tuple(dict.fromkeys(_roots(folder, loaders)))
        named = _named(distribution, loaders, roots) | {module.partition(".")[0]}
        # A finder's map names what lies in a namespace, others its top.
        tops = {name for name in named if not any(item.startswith(f"{name}.") for item in named)}
        names = {item for name in tops for item in _outermost(name, None, roots)}
    walk = _Walk()
    for name in sorted(names):
        spec = find_module(name)
        if spec is not None:
            walk.explore(name, spec)
    return Codes(walk.all_found(), roots)


class _Walk:
    """Asks the import system for one package after the other."""

    def __init__(self) -> None:
        self._found: dict[str, Code] = {}
        self._files: dict[str, str] = {}

    def explore(self, name: str, spec: ModuleSpec, around: frozenset[str] = frozenset()) -> bool:
        """Take in a module and all that lies in it; say whether there was code.

        Args:
            name: of the module.
            spec: of it.
            around: the folders that it lies in: links may make circles.
        """
        code = code_of(spec)
        if code is None:
            return False
        inside = False
        locations = locations_of(spec)
        files: dict[str, str] = {}
        children: set[str] = set()
        folders = {os.path.realpath(location): location for location in locations}
        for location in (place for folder, place in folders.items() if folder not in around):
            found, others = _entries(location)
            children |= found
            files |= {f"{name.replace('.', '/')}/{file}": path for file, path in others.items()}
        for child in sorted(children):
            child_spec = find_child(f"{name}.{child}", locations)
            if child_spec is not None:
                inside |= self.explore(f"{name}.{child}", child_spec, around | folders.keys())
        if code.hash == NAMESPACE and not inside and not files:
            return False  # a folder of data
        self._found[name] = code
        self._files |= files
        return True

    def all_found(self) -> dict[str, Code]:
        """Return the modules, and those files that no module is loaded from."""
        modules = {code.where for code in self._found.values()}
        files = {name: path for name, path in self._files.items() if path not in modules}
        return self._found | {name: Code(file_hash(path), path) for name, path in files.items()}


def _entries(location: str) -> tuple[set[str], dict[str, str]]:
    """Return the names that may be modules in a place, and its files of code by name."""
    if not os.path.isdir(location):  # a zip file, or what a path hook knows
        return {item.name for item in pkgutil.iter_modules([location])}, {}
    names, files = set(), {}
    try:
        with os.scandir(location) as entries:
            for entry in entries:
                if entry.is_dir():
                    names |= {entry.name} if entry.name.isidentifier() else set()
                    continue
                module = _module_of(entry.name)
                if module is not None:
                    names |= {module} - {"__init__"}
                if module is not None or _is_code(entry.name):
                    files[entry.name] = os.path.join(location, entry.name)
    except OSError:  # it went away, or isn't ours to read: what is locked of it is missing then
        return set(), {}
    return names - {_CACHE}, files


def _is_code(name: str) -> bool:
    return name.endswith(_SUFFIXES) or _LIBRARY.search(name) is not None


def _module_of(file: str) -> str | None:
    """Return the name under which a file would be imported, if it would."""
    for suffix in _SUFFIXES:
        stem = file.removesuffix(suffix)
        if stem != file:
            return stem if stem.isidentifier() else None
    return None


def _recorded(distribution: Distribution | None) -> dict[str, str]:
    """Return the paths of the code files that a RECORD names."""
    if distribution is None or not distribution.read_text("RECORD"):
        return {}
    found = {}
    for file in distribution.files or ():
        if file.parts[:1] != ("..",) and _CACHE not in file.parts and _is_code(file.name):
            found[file.as_posix()] = str(file.locate())
    return found


def _pth_files(distribution: Distribution, recorded: Mapping[str, str]) -> dict[str, str]:
    """Return the texts of the .pth files of an installation, and of the modules that they import: its finder."""
    if not distribution.read_text("RECORD"):
        return {}
    found = {}
    for file in distribution.files or ():
        if file.name.endswith(".pth") and len(file.parts) == 1:
            text = (_read(str(file.locate())) or b"").decode("utf-8", "replace")
            found[file.name] = text
            for name in _PTH_IMPORT.findall(text):
                path = recorded.get(f"{name}.py")
                if path is not None:
                    found[name] = (_read(path) or b"").decode("utf-8", "replace")
    # Without its .pth file, setuptools' finder still isn't the code that it finds.
    finders = {name.partition(".")[0]: "" for name in recorded if name.startswith("__editable__")}
    return finders | found


def _roots(folder: str, loaders: Mapping[str, str]) -> Iterator[str]:
    """Give the folders that .pth files put on ``sys.path``, as Python writes them there."""
    for name, text in loaders.items():
        for line in text.splitlines() if name.endswith(".pth") else ():
            root = os.path.abspath(os.path.join(folder, line.strip()))
            if line.strip() and not line.startswith(("import ", "import\t", "#")) and os.path.isdir(root):
                yield root


def _named(distribution: Distribution | None, loaders: Mapping[str, str], roots: Sequence[str]) -> set[str]:
    """Return the packages and single modules of an editable installation, by whatever tells them."""
    if distribution is None:
        return set()
    names = {name for text in loaders.values() for name in _mapped(text)}
    listed = (distribution.read_text("top_level.txt") or "").split()
    try:
        entry_points = list(distribution.entry_points)
    except Exception:  # damaged; discovery reports it
        entry_points = []
    names |= {
        item.value.partition(":")[0].partition("[")[0].strip().partition(".")[0] for item in entry_points
    }
    names |= {name.replace("/", ".") for name in listed}
    if not listed:
        for root in roots:
            found, files = _entries(root)
            single = {_module_of(file) for file in files}
            regular = {name for name in found if os.path.isfile(os.path.join(root, name, "__init__.py"))}
            names |= regular | {name for name in single if name is not None}
    return {name for name in names if name and all(part.isidentifier() for part in name.split("."))}


def _mapped(source: str) -> Iterator[str]:
    """Give the names that a finder's source maps to places: in a literal MAPPING, or in arguments of calls."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in tree.body:
        target = getattr(node, "target", None) or next(iter(getattr(node, "targets", ())), None)
        if isinstance(target, ast.Name) and target.id == "MAPPING":
            yield from _texts(getattr(node.value, "keys", ()))  # type: ignore[attr-defined]
        call = getattr(node, "value", None)
        if isinstance(call, ast.Call):
            for item in call.args:
                keys = item.keys if isinstance(item, ast.Dict) else [item]
                keys = item.elts if isinstance(item, ast.Set) else keys
                yield from (name.partition(".")[0] for name in _texts(keys) if "/" not in name)


def _texts(nodes: Iterable[Any]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _outermost(name: str, path: Sequence[str] | None, roots: Sequence[str]) -> Iterator[str]:
    """Give the outermost packages with code of their own; other distributions may share a namespace."""
    spec = find_module(name) if path is None else find_child(name, path)
    code = None if spec is None else code_of(spec)
    if spec is None or code is None:
        return
    places = [item for item in locations_of(spec) if any(_within(item, root) for root in roots)]
    files = [file for place in places for file in _entries(place)[1]]
    if code.hash != NAMESPACE or not places or files or name.count(".") > _DEEPEST:
        yield name
        return
    for child in sorted({item for place in places for item in _entries(place)[0]}):
        yield from _outermost(f"{name}.{child}", locations_of(spec), roots)


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _packages(recorded: Iterable[str]) -> set[str]:
    """Return the outermost packages that have code of their own, and the single modules, by their names."""
    names = list(recorded)
    folders = sorted({PurePosixPath(name).parent.parts for name in names} - {()})
    folders = [parts for parts in folders if all(part.isidentifier() for part in parts)]
    outermost = {
        parts for parts in folders if not any(parts[:count] in folders for count in range(1, len(parts)))
    }
    single = {_module_of(name) for name in names if "/" not in name} - {None}
    return {".".join(parts) for parts in outermost} | {name for name in single if name is not None}


def _is_pytests(loader: object) -> bool:
    pytest = sys.modules.get("_pytest.assertion.rewrite")
    return pytest is not None and type(loader) is pytest.AssertionRewritingHook


def _from_source(path: str) -> Code:
    content = _read(path)
    return Code(_hash(content), path, content or b"")


def _from_zip(loader: zipimport.zipimporter, spec: ModuleSpec) -> Code:
    path = str(spec.origin)
    try:
        content: bytes | None = loader.get_data(path)
    except (OSError, ImportError):
        content = None
    return Code(_hash(content), path, content or b"")


def _read(path: str) -> bytes | None:
    try:
        # A pipe or device would never end.
        return Path(path).read_bytes() if os.path.isfile(path) else None
    except (OSError, ValueError):
        return None  # a recorded file that is gone is a change, too


def _hash(content: bytes | None) -> str:
    return f"sha256:{_GONE if content is None else hashlib.sha256(content).hexdigest()}"


def place(code: Code) -> str:
    """Return where code lies, for a message."""
    return printable(code.where, 300)
