"""Under a lock, what is imported of the listed distributions is the code that was locked, byte by byte.

A finder comes first on ``sys.meta_path``: it lets the others find a module, reads its file once, compares, and runs
what it read. So neither a cache of bytecode, nor a change after the start, nor a file that was added runs. What was
imported before, and what others put into ``sys.modules``, is compared where a model is built.
"""

from __future__ import annotations

import importlib.util
import linecache
import marshal
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

from mszoo.registry.allowed import allow_only
from mszoo.registry.errors import LockError, Problem
from mszoo.registry.fingerprints import LOADER, NAMESPACE, Code, Codes, code_of, file_hash, place
from mszoo.registry.objects import ONLOOKERS, find_child
from mszoo.registry.text import printable

_HINT = "Reinstall what was locked, and start again."
_SCRIPTS = ("__main__", "__mp_main__")
_HEADER = 16  # bytes of a file of bytecode before the code
_in_force: list[Guard] = []
_ran: dict[str, tuple[object, str]] = {}  # what guards loaded, and the hashes of its code
_compared: dict[str, tuple[object, str, Problem | None]] = {}


class LockedImportError(LockError, ImportError):
    """A module isn't what the lock in force says of it; none of it ran."""


class Guard:
    """The finder; one is in force in a process.

    Attributes:
        expected: hashes by name of module, and by path of other files of code.
    """

    def __init__(self) -> None:
        self.expected: dict[str, str] = {}
        self._files: dict[str, Code] = {}
        self._by_path: dict[str, str] = {}
        self._packages: set[str] = set()
        self._folders: set[str] = set()
        self._roots: set[str] = set()
        self._refused: dict[str, Problem] = {}

    def hold(self, locked: Mapping[str, str], found: Codes) -> None:
        """Hold a distribution to what the lock says of it; it was found to be so.

        Args:
            locked: the hashes.
            found: where its code lies.
        """
        self.expected |= locked
        self._packages |= locked.keys()
        self._by_path |= {code.where: code.hash for code in found.found.values()}
        for name, code in found.found.items():
            if "/" in name:
                self._files[name] = code
            elif code.hash != NAMESPACE and (name.rpartition(".")[0] in locked or _is_package(code.where)):
                self._folders.add(os.path.dirname(code.where))
        self._roots |= {f"{root.rstrip('/')}/" for root in found.roots}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        """Find a module of a listed distribution by the other finders, and bind it to the code that was locked.

        Raises:
            LockedImportError: its code is another, or it isn't in the lock.
        """
        locked = self.expected.get(name)
        if locked is None and name.rpartition(".")[0] not in self._packages:
            return None
        spec = find_child(name, path)
        code = None if spec is None else code_of(spec)
        if spec is None or code is None:
            return None
        problem = _difference(name, locked, code)
        if problem is not None:
            self._refused[name] = problem
            raise LockedImportError(problem.who, problem.what, problem.hint)
        if code.hash == NAMESPACE:
            return spec
        if code.content or not code.where.endswith(".so"):
            spec.loader = _Loader(name, spec.loader, code)  # type: ignore[assignment]
        return spec

    def problems(self) -> list[Problem]:
        """Compare what was imported in this process, and libraries that models load, with the lock."""
        found = list(self._refused.values())
        if not any(item is self for item in sys.meta_path):
            what = "was taken off sys.meta_path, so what was imported since may be anything"
            found.append(
                Problem("the lock's finder", what, "Find out which package does that, and start again.")
            )
        for name, module in list(sys.modules.items()):
            if module is not None and name not in self._refused:
                found += self._compare(name, module)
        for name, code in self._files.items():
            now = Code(file_hash(code.where), code.where)
            found += filter(None, [_difference(name, self.expected[name], now)])
        return found

    def _compare(self, name: str, module: Any) -> Iterator[Problem]:
        locked = self.expected.get(name)
        if locked is None and (locked := self._inside(name, module)) is None:
            return
        ran, by = _ran.get(name, (None, None))
        if ran is module and by == locked:
            return
        # Comparing takes time, and what was imported stays.
        known = _compared.get(name)
        if known is None or known[0] is not module or known[1] != locked:
            known = _compared[name] = module, locked, _imported(name, module, locked)
        if known[2] is not None:
            yield known[2]

    def _inside(self, name: str, module: Any) -> str | None:
        """Return the hash that a module under another name must have, "" for none; None if it isn't ours."""
        file = _file(module)
        if not file or name in _SCRIPTS:
            return None
        if file in self._by_path:
            return self._by_path[file]
        ours = name.rpartition(".")[0] in self._packages or os.path.dirname(file) in self._folders
        return "" if ours or any(file.startswith(root) for root in self._roots) else None


def _imported(name: str, module: Any, locked: str) -> Problem | None:
    """Say what is wrong with a module that Python imported without the finder."""
    spec = _attribute(module, "__spec__")
    code = _code_of(spec) if type(spec) is ModuleSpec else None
    loader: Any = None if code is None else spec.loader
    file = _file(module)
    if locked == NAMESPACE and not file:
        return None
    forged = type(loader) is _Loader and loader.module is not module
    if code is None or forged or (code.hash != NAMESPACE and file != code.where):
        what = f"what lies in sys.modules ({printable(file, 300) or 'no file'}) is not what was locked"
        return Problem(name, what, _HINT)
    problem = _difference(name, locked or None, code)
    if problem is None and type(loader) is not _Loader and code.where.endswith(".py"):
        problem = _bytecode_problem(name, code)
    return problem


def _code_of(spec: ModuleSpec) -> Code | None:
    loader: Any = spec.loader
    return loader.code if type(loader) is _Loader else code_of(spec)


class _Loader:
    """Runs the code that was compared; all else is asked of the loader that Python would have taken."""

    def __init__(self, name: str, loader: Any, code: Code) -> None:
        self._name, self._loader, self.code = name, loader, code
        self.module: ModuleType | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave making the module to Python."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the code."""
        self.module = module
        code = self.get_code(self._name)
        text = self.get_source(self._name)
        if text is not None:
            # MindSpore compiles functions from their source, which Python reads from the file otherwise.
            path = self.code.where
            linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
        exec(code, vars(module))
        # What it put into sys.modules, where that isn't itself.
        _ran[self._name] = sys.modules.get(self._name), self.code.hash

    def get_code(self, name: str) -> CodeType:
        """Return the code of the module."""
        return compiled(self.code)

    def get_source(self, name: str) -> str | None:
        """Return the text of the module; None if it has none."""
        is_text = self.code.where.endswith(".py")
        return importlib.util.decode_source(self.code.content) if is_text else None


def compiled(code: Code) -> CodeType:
    """Return the code object of a module.

    Raises:
        ImportError: it is bytecode of another Python.
        SyntaxError, ValueError: as Python raises them.
    """
    if code.where.endswith(".py"):
        made: CodeType = compile(code.content, code.where, "exec", dont_inherit=True)
        return made
    if code.content[:4] != importlib.util.MAGIC_NUMBER:
        raise ImportError(f"bad magic number in {code.where}")
    loaded = marshal.loads(memoryview(code.content)[_HEADER:])
    if not isinstance(loaded, CodeType):
        raise ImportError(f"no code in {code.where}")
    return loaded


def guard() -> Guard:
    """Put a guard in force in this process, in place of the one before.

    Of other distributions than mszoo nothing that mszoo asks for is imported, until they are allowed.
    """
    release()
    made = Guard()
    allow_only({"mszoo"})
    _in_force.append(made)
    ONLOOKERS.append(made)
    sys.meta_path.insert(0, made)  # type: ignore[arg-type]
    return made


def in_force() -> Guard | None:
    """Return the guard of this process; None without a lock."""
    return _in_force[0] if _in_force else None


def release() -> None:
    """Let everything be imported again."""
    for item in _in_force:
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not item]
    ONLOOKERS.clear()
    _in_force.clear()
    allow_only(None)


def differences_of(locked: Mapping[str, str], found: Mapping[str, Code]) -> list[str]:
    """Say in clauses in what the code that is found differs from what was locked."""
    clauses = []
    pairs = [(name, _wrong(locked.get(name), code), code) for name, code in sorted(found.items())]
    for wrong in dict.fromkeys(wrong for _, wrong, _ in pairs if wrong):
        items = [(name, code) for name, text, code in pairs if text == wrong]
        names, places = few(name for name, _ in items), few(place(code) for _, code in items)
        clauses.append(f"{wrong.format(names)} ({places})")
    gone = sorted(locked.keys() - found.keys())
    return [*clauses, f"{few(gone)} is locked, and is not there"] if gone else clauses


def few(names: Iterable[str], most: int = 5) -> str:
    """Return names for a message: the first of them, and how many more there are."""
    items = list(names)
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def _wrong(locked: str | None, code: Code) -> str:
    """Return what is wrong with code, with room for its name; nothing if all is as locked."""
    if code.hash.startswith(LOADER):
        kind = printable(code.hash.removeprefix(LOADER), 200).replace("{", "(").replace("}", ")")
        return f"{{}} is loaded by {kind}, which may run anything"
    if locked is None:
        return "{} is not in the lock"
    return "" if locked == code.hash else "the code of {} is not what was locked"


def _difference(name: str, locked: str | None, code: Code) -> Problem | None:
    wrong = _wrong(locked, code)
    said = wrong.replace("the code of {}", "its code").removeprefix("{} ")
    return Problem(name, f"{said} ({place(code)})", _HINT) if wrong else None


def _bytecode_problem(name: str, code: Code) -> Problem | None:
    """Compare the cache that Python took in place of a module's source, if there is one, with the source."""
    cache = importlib.util.cache_from_source(code.where)
    try:
        with open(cache, "rb") as file:
            content = file.read()
        if not _is_valid(content, code):
            return None
        same = compiled(Code(code.hash, cache, content)) == compiled(code)
    except OSError:
        return None
    except (ImportError, SyntaxError, ValueError, EOFError, TypeError):
        same = False
    if same:
        return None
    what = f"the bytecode in {printable(cache, 300)} is not that of its source"
    return Problem(name, what, "Remove that file, and start again.")


def _is_valid(content: bytes, code: Code) -> bool:
    """Say whether Python takes a cache for current, as importlib does."""
    if content[:4] != importlib.util.MAGIC_NUMBER or len(content) < _HEADER:
        return False
    flags = int.from_bytes(content[4:8], "little")
    if flags & 1:
        return not flags & 2 or content[8:16] == importlib.util.source_hash(code.content)
    info = os.stat(code.where)
    found = int.from_bytes(content[8:12], "little"), int.from_bytes(content[12:16], "little")
    return found == (int(info.st_mtime) & 0xFFFFFFFF, info.st_size & 0xFFFFFFFF)


def _file(module: Any) -> str:
    file = _attribute(module, "__file__")
    return file if type(file) is str else ""


def _attribute(module: Any, name: str) -> Any:
    # Not getattr: a module may make its attributes, and import for it.
    try:
        return object.__getattribute__(module, "__dict__").get(name)
    except (AttributeError, TypeError):
        return None


def _is_package(path: str) -> bool:
    return os.path.basename(path).partition(".")[0] == "__init__"
