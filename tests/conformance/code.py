"""Says whether the object that ``module:name`` names exists, from files alone: no suite is imported for it."""

from __future__ import annotations

import ast
import importlib.util
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path


def missing_code(path: str) -> str | None:
    """Return what is missing of ``module:name``, or None if it is there or can't be told without importing.

    Args:
        path: as records hold it, such as ``package.models:MyModel``.
    """
    module, _, name = path.partition(":")
    spec, missing = _find(module)
    if missing is not None:
        return f"there is no module {missing}"
    if spec is None or spec.origin is None or Path(spec.origin).suffix != ".py":
        return None  # compiled code, or a namespace: only importing would tell
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"), spec.origin)
    names, open_ended = _defined(tree)
    first = name.split(".")[0]
    if first in names or open_ended:
        return None
    return f"module {module} defines no {first}"


def _find(module: str) -> tuple[ModuleSpec | None, str | None]:
    """Find a module step by step: importlib would import the parents."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None, top
    found = top
    for part in rest:
        locations = spec.submodule_search_locations
        found = f"{found}.{part}"
        child = PathFinder.find_spec(found, None if locations is None else list(locations))
        if locations is None or child is None:
            return None, found
        spec = child
    return spec, None


def _defined(tree: ast.Module) -> tuple[set[str], bool]:
    """Return the names that a module's top level binds, and whether it may bind others (star, __getattr__)."""
    names: set[str] = set()
    open_ended = False
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound = {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            open_ended |= "*" in bound
            names |= bound
        else:
            names |= {
                item.id
                for item in ast.walk(node)
                if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store)
            }
            pending += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            pending += [stmt for handler in getattr(node, "handlers", []) for stmt in handler.body]
    return names, open_ended or "__getattr__" in names
