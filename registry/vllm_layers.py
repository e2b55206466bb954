"""Finds vLLM's replaceable layers in its source: their names and modules, without importing vLLM.

A layer is replaceable if it descends from ``CustomOp`` or ``PluggableLayer``; vLLM looks replacements up by class
name.
"""

from __future__ import annotations

import difflib
import functools
import re
from importlib.util import find_spec
from pathlib import Path

_ROOTS = frozenset({"CustomOp", "PluggableLayer"})
_CLASS = re.compile(r"^class (\w+)\(([^)]*)\)", re.MULTILINE)
# A second, separate copy of the layers with a registry of its own.
_SEPARATE = "vllm.model_executor.hw_agnostic"


def modules_of(layer: str) -> tuple[str, ...]:
    """Return the modules that define a replaceable layer of this name: one, none, or several of one name."""
    return _layers().get(layer, ())


def names() -> tuple[str, ...]:
    """Return the names of all replaceable layers; none if vLLM isn't installed."""
    return tuple(_layers())


def nearest_name(layer: str) -> str | None:
    """Return the replaceable layer whose name resembles this one most, or None."""
    lower = {name.lower(): name for name in _layers()}
    found = difflib.get_close_matches(layer.lower(), lower, n=1, cutoff=0.6)
    return lower[found[0]] if found else None


@functools.cache
def _layers() -> dict[str, tuple[str, ...]]:
    spec = find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return {}
    root = Path(next(iter(spec.submodule_search_locations)))
    classes: list[tuple[str, str, set[str]]] = []
    for path in sorted(root.rglob("*.py")):
        module = ".".join(("vllm", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
        if module.startswith(_SEPARATE):
            continue
        for name, parents in _CLASS.findall(path.read_text("utf-8", errors="replace")):
            bases = {parent.partition("[")[0].strip().rpartition(".")[2] for parent in parents.split(",")}
            classes.append((name, module, bases))
    # Some models have a class of their own of a layer's name: it counts only if it is such a layer itself.
    layers: dict[str, list[str]] = {root_class: [] for root_class in _ROOTS}
    before = -1
    while before != len(layers):
        before = len(layers)
        for name, _, bases in classes:
            if bases & layers.keys():
                layers.setdefault(name, [])
    for name, module, bases in classes:
        if bases & layers.keys():
            layers[name].append(module)
    return {name: tuple(modules) for name, modules in layers.items() if modules}
