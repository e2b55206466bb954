"""What ``mszoo explain`` says of one architecture beyond who won: vLLM's classes, and what would be refused."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mszoo.adapters.vllm.models.features import refused
from mszoo.registry.decisions import Decision
from mszoo.registry.objects import find_module

_WRAPPERS = "mszoo.adapters.vllm.models.wrapper"
_REGISTRY = "vllm.model_executor.models.registry"


def vllm_json(decision: Decision) -> dict[str, Any]:
    """Return ``class`` (what vLLM's registry gets from mszoo), ``last_resort`` (vLLM's own class) and ``refuses``.

    The first two are ``module:Class`` or null; ``refuses`` lists vLLM's options that the winner refuses.
    """
    winner = decision.winner
    name = decision.subject.replace(".", "_")
    return {
        "class": f"{_WRAPPERS}:{name}" if winner else None,
        # A qualified name asks for one suite: it refuses rather than falls back.
        "last_resort": None if decision.pinned else own_class(decision.subject),
        "refuses": refused(winner.adapter) if winner else [],
    }


def server(decision: Decision) -> str:
    """Return who serves an architecture, in words."""
    if decision.winner is not None:
        return decision.winner.qualified_name
    if find_module("vllm") is None:
        return "vLLM's own model, if it has one"
    known = not decision.pinned and own_class(decision.subject) is not None
    return "vLLM's own model" if known else "nobody"


def own_class(architecture: str) -> str | None:
    """Return vLLM's own class of an architecture as ``module:Class``; None if it has none or isn't installed."""
    return _own_classes().get(architecture)


@functools.cache
def _own_classes() -> dict[str, str]:
    """Read vLLM's table of models from its source: importing it takes seconds."""
    spec = find_module(_REGISTRY)
    if spec is None or spec.origin is None:
        return {}
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    package = _REGISTRY.rpartition(".")[0]
    # vLLM merges its tables in this order: the last entry of a name stands.
    return {
        name: f"{module if '.' in module else f'{package}.{module}'}:{model_class}"
        for name, module, model_class in _entries(tree)
    }


def _entries(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """Give (architecture, module, class) of ``{"architecture": ("module", "class")}`` at module level."""
    for statement in tree.body:
        value = getattr(statement, "value", None)
        for node in ast.walk(value) if isinstance(value, ast.AST) else ():
            if isinstance(node, ast.Dict):
                for key, item in zip(node.keys, node.values, strict=True):
                    texts = [getattr(part, "value", None) for part in (key, *getattr(item, "elts", ()))]
                    if len(texts) == 3 and all(isinstance(text, str) for text in texts):
                        yield texts[0], texts[1], texts[2]  # type: ignore[misc]
