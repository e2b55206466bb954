"""What records name as ``module:object``: imported, or found in its source without importing any of it."""

from __future__ import annotations

import ast
import pkgutil
import re
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

# With one of these a module may have names that its text doesn't show.
_DYNAMIC = re.compile(rb"import\s+\*|__getattr__|globals\(\)|setattr\(|exec\(")


def load_object(path: str) -> Any:
    """Import what ``module:object`` names.

    Raises:
        ImportError, AttributeError: as Python raises them.
    """
    return pkgutil.resolve_name(path)


#: Finders that only look on: what they would find is found by the others.
ONLOOKERS: list[object] = []


def find_module(name: str) -> ModuleSpec | None:
    """Return the spec of a module, or None; unlike importlib's find_spec, no parent package is run."""
    spec: ModuleSpec | None = None
    path = None
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        spec = find_child(".".join(parts[:count]), path)
        if spec is None:
            return None
        path = locations_of(spec)
        if not path and count < len(parts):
            return None
    return spec


def find_child(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """Return the spec of a module that is sought in these places, or None; None for the path is ``sys.path``."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if find is None or any(finder is item for item in ONLOOKERS):
            continue
        try:
            spec: ModuleSpec | None = find(name, path)
        except KeyError:
            # A namespace in a namespace: Python asks the outer one, which isn't imported, for its place.
            spec = _namespace(name, path or ())
        except Exception:  # of whatever it raises, an import would fail, too
            return None
        if spec is not None:
            return spec
    return None


def locations_of(spec: ModuleSpec) -> list[str]:
    """Return where the modules of a package are sought; of a namespace, without asking one that isn't imported."""
    found: Any = spec.submodule_search_locations
    return [str(item) for item in getattr(found, "_path", found) or ()]


def _namespace(name: str, path: Sequence[str]) -> ModuleSpec | None:
    """Return the spec of a package that has no code of its own, from all its places."""
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = []
    for place in path:
        portion = getattr(pkgutil.get_importer(place), "find_spec", lambda _: None)(name)
        if portion is not None and portion.loader is not None:
            return portion  # type: ignore[no-any-return]
        spec.submodule_search_locations += [] if portion is None else locations_of(portion)
    return spec if spec.submodule_search_locations else None


def missing_object(path: str) -> str | None:
    """Say in a clause why ``module:object`` can't be there; None if it may be.

    A module that makes its names at run time gets the benefit of the doubt, and so does compiled code.
    """
    module, _, name = path.partition(":")
    first = name.partition(".")[0]
    spec = find_module(module)
    if spec is None:
        return f"there is no module {module}"
    if spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        source = Path(spec.origin).read_bytes()
        defined = _defined(ast.parse(source))
    except (OSError, SyntaxError, ValueError) as error:
        return f"module {module} can't be read ({error})"
    return None if first in defined or _DYNAMIC.search(source) else f"module {module} defines no {first}"


def _defined(tree: ast.Module) -> set[str]:
    """Return the names that a module's top level binds."""
    names: set[str] = set()
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        else:
            names |= {
                item.id
                for item in ast.walk(node)
                if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store)
            }
            pending += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            pending += [stmt for handler in getattr(node, "handlers", []) for stmt in handler.body]
    return names
