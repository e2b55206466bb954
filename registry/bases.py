"""What a class that a record names is derived from, read from its package's sources; nothing of it is imported."""

from __future__ import annotations

import ast
from pathlib import Path

from mszoo.registry.objects import find_module


def foreign_bases(path: str) -> set[str] | None:
    """Return the classes of other packages that ``module:Class`` is derived from, as ``module:Class``.

    None where its sources don't tell: it is no class, a base is computed, or a module can't be found or read.
    """
    package = path.partition(":")[0].partition(".")[0]
    foreign: set[str] = set()
    seen: set[str] = set()
    pending = [path]
    while pending:
        item = pending.pop()
        if item in seen:
            continue
        seen.add(item)
        if item.partition(":")[0].partition(".")[0] != package:
            foreign.add(item)
            continue
        bases = _bases(item)
        if bases is None:
            return None
        pending += bases
    return foreign


def _bases(path: str) -> list[str] | None:
    """Return the bases of a class of the package, or where a name that isn't defined in a module comes from."""
    module, _, name = path.partition(":")
    spec = find_module(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    package = module if spec.submodule_search_locations is not None else module.rpartition(".")[0]
    names = _names(tree, module, package)
    definition = next((x for x in tree.body if isinstance(x, ast.ClassDef) and x.name == name), None)
    if definition is None:
        elsewhere = names.get(name, path)
        return None if elsewhere == path else [elsewhere]
    bases = []
    for base in definition.bases:
        node = base.value if isinstance(base, ast.Subscript) else base
        first, _, rest = ast.unparse(node).partition(".")
        if not (rest or first).replace(".", "").isidentifier() or (first not in names and first != "object"):
            return None
        if first != "object":
            target = names[first]
            bases.append(f"{target.replace(':', '.')}:{rest}" if rest else target)
    return bases


def _names(tree: ast.Module, module: str, package: str) -> dict[str, str]:
    """Return what the names of a module's top level stand for: ``module:name``, or a module."""
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = f"{module}:{node.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            start = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            source = ".".join(item for item in (start, node.module) if item)
            for alias in node.names:
                found[alias.asname or alias.name] = f"{source}:{alias.name}"
    return found
