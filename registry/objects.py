"""What records name as ``module:object``: imported, or found in its source without importing any of it."""

from __future__ import annotations

import ast
import pkgutil
import re
import sys
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


def _find(name: str, path: object) -> ModuleSpec | None:
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path)  # type: ignore[arg-type]
        if spec is not None:
            return spec
    return None


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
