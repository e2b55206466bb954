"""What ``mszoo explain`` says of one architecture beyond who won: vLLM's classes, and what would be refused."""

from __future__ import annotations

import ast
import functools
import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mszoo.registry.bridge.features import refused
from mszoo.registry.catalog import Decision
from mszoo.registry.errors import MszooError, RefusalError
from mszoo.registry.source import find_module

_WRAPPERS = "mszoo.registry.bridge.wrapper"
_REGISTRY = "vllm.model_executor.models.registry"


@dataclass(frozen=True)
class Reading:
    """What a candidate says of a config.json.

    Args:
        adapter: its qualified name.
        accepted: None if it can't be asked before it is built.
        reason: why it refuses or can't be asked.
    """

    adapter: str
    accepted: bool | None
    reason: str | None = None


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


def own_class(architecture: str) -> str | None:
    """Return vLLM's own class of an architecture as ``module:Class``; None if it has none or isn't installed."""
    return _own_classes().get(architecture)


def read_configs(decision: Decision, folder: Path) -> list[Reading]:
    """Let the candidates read a folder's config.json as they do when they are loaded; imports the frameworks.

    Returns:
        Their answers in order, up to the first that accepts: it serves.

    Raises:
        MszooError: vLLM can't read the config.
    """
    if find_module("vllm") is None:
        raise MszooError("mszoo explain", "--config needs vLLM", "Install it: pip install 'mszoo[cpu]'.")
    from vllm.transformers_utils.config import get_config

    try:
        config = get_config(str(folder), trust_remote_code=False)
    except Exception as error:
        what = f"vLLM can't read config.json ({type(error).__name__}: {error})"
        raise MszooError(str(folder), what, "Mend config.json.") from error
    readings: list[Reading] = []
    for candidate in decision.chain:
        readings.append(_reading(candidate.qualified_name, candidate.adapter.model, config))
        if readings[-1].accepted:
            break
    return readings


def config_fields(folder: Path) -> dict[str, Any]:
    """Return the fields of a folder's config.json, which has been read before."""
    fields: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return fields


def config_dtype(folder: Path) -> str | None:
    """Return the dtype that a folder's config.json names, or None."""
    fields = config_fields(folder)
    value = fields.get("dtype", fields.get("torch_dtype"))
    return value if isinstance(value, str) else None


def _reading(adapter: str, model: str, config: Any) -> Reading:
    module, _, name = model.partition(":")
    try:
        model_class = getattr(importlib.import_module(module), name)
    except Exception as error:
        return Reading(adapter, False, f"{model} can't be loaded ({type(error).__name__}: {error})")
    read = getattr(model_class, "read_config", None)
    if not callable(read):
        return Reading(adapter, None, f"{model} reads it when the model is loaded")
    try:
        read(config)
    except RefusalError as refusal:
        return Reading(adapter, False, f"{refusal.what}. {refusal.mend}")
    except Exception as error:
        return Reading(adapter, False, f"reading it failed ({type(error).__name__}: {error})")
    return Reading(adapter, True)


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
