"""Says which of vLLM's layer names other plugins take, read from their source: nothing of it is imported.

A name can be registered once, and vllm-ascend registers its names without looking when a worker starts: a worker
would die if one of them were ours by then.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

#: What vllm-ascend 0.23 to 0.27 registers; used where its source can't be read.
ASCEND_LAYERS = frozenset(
    {
        "ApplyRotaryEmb",
        "BailingMoELinearAttention",
        "ColumnParallelLinear",
        "Conv3dLayer",
        "CustomQwen2Decoder",
        "DeepseekScalingRotaryEmbedding",
        "FusedMoE",
        "GatedDeltaNetAttention",
        "GateLinear",
        "GemmaRMSNorm",
        "LogitsProcessor",
        "MMEncoderAttention",
        "MRotaryEmbedding",
        "MergedColumnParallelLinear",
        "MoERunner",
        "MultiHeadLatentAttentionWrapper",
        "ParallelLMHead",
        "QKVParallelLinear",
        "QuickGELU",
        "RMSNorm",
        "RMSNormGated",
        "RelPosAttention",
        "ReplicatedLinear",
        "RotaryEmbedding",
        "RoutedExperts",
        "RowParallelLinear",
        "SiluAndMul",
        "SiluAndMulClamp",
        "VocabParallelEmbedding",
        "YaRNScalingRotaryEmbedding",
    }
)
_GENERAL, _PLATFORM = "vllm.general_plugins", "vllm.platform_plugins"
_REGISTER = "register_oot"


def names_to_come(platform_module: str, device: str) -> dict[str, str]:
    """Return the layer names that other plugins register in this process sooner or later, and who does.

    Args:
        platform_module: the module of vLLM's current platform class.
        device: ``cpu`` or ``npu``.
    """
    platform = platform_module.partition(".")[0]
    names: dict[str, str] = {}
    for package in sorted({*_plugin_packages(platform), platform} - {"vllm", "mszoo"}):
        names.update(dict.fromkeys(registered_names(package), owner(package)))
    if device == "npu" and not names.keys() & ASCEND_LAYERS:
        names = dict.fromkeys(ASCEND_LAYERS, owner("vllm_ascend")) | names
    return names


def owner(module: str) -> str:
    """Return who gives a module: ``vllm-ascend 0.23.0``, or its top-level package if no distribution has it."""
    package = module.partition(".")[0]
    for name in _distributions().get(package, ()):
        return f"{name} {importlib.metadata.version(name)}"
    return package


@functools.cache
def registered_names(package: str) -> frozenset[str]:
    """Return the names that a package's source gives to vLLM's ``register_oot``.

    Args:
        package: a top-level package or module; it is found, not imported.
    """
    return frozenset(
        name
        for path in _sources(package)
        if _REGISTER in (text := path.read_text("utf-8", errors="replace"))
        for name in names_in(text)
    )


def names_in(source: str) -> set[str]:
    """Return the names that a module's source registers: literal ones, those of decorated classes, and the string
    keys of the dictionaries beside a call whose name is a variable.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            names.update(_decorated(node))
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Module)):
            names.update(_called(node))
    return names


def _decorated(node: ast.ClassDef) -> Iterator[str]:
    """Give X of ``@X.register_oot``, with or without empty parentheses."""
    for decorator in node.decorator_list:
        function = decorator.func if isinstance(decorator, ast.Call) else decorator
        if not isinstance(function, ast.Attribute) or function.attr != _REGISTER:
            continue
        named = isinstance(decorator, ast.Call) and any(item.arg == "name" for item in decorator.keywords)
        if not named:
            yield ast.unparse(function.value).rpartition(".")[2]


def _called(scope: ast.FunctionDef | ast.AsyncFunctionDef | ast.Module) -> Iterator[str]:
    for call in ast.walk(scope):
        if not isinstance(call, ast.Call) or getattr(call.func, "attr", None) != _REGISTER:
            continue
        name = next((item.value for item in call.keywords if item.arg == "name"), None)
        if isinstance(name, ast.Constant):
            yield str(name.value)
        elif name is not None and not isinstance(scope, ast.Module):
            yield from _keys(scope)


def _keys(scope: ast.AST) -> Iterator[str]:
    """Give the string keys of dictionaries and of assigned items: ``{"A": a}`` and ``table["B"] = b``."""
    for node in ast.walk(scope):
        if isinstance(node, ast.Dict):
            keys = node.keys
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            keys = [node.slice]
        else:
            continue
        yield from (key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str))


def _plugin_packages(platform: str) -> Iterator[str]:
    """Give the top-level packages of vLLM's plugins; of those that bring a platform, the current one only."""
    allowed = os.environ.get("VLLM_PLUGINS")
    packages = {
        group: {
            item.module.partition(".")[0]
            for item in importlib.metadata.entry_points(group=group)
            if allowed is None or item.name in allowed.split(",")
        }
        for group in (_GENERAL, _PLATFORM)
    }
    yield from packages[_GENERAL] - packages[_PLATFORM]
    yield from packages[_PLATFORM] & {platform}


def _sources(package: str) -> Iterator[Path]:
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return
    if spec is None:
        return
    for location in spec.submodule_search_locations or ():
        yield from sorted(Path(location).rglob("*.py"))
    if spec.submodule_search_locations is None and spec.origin and spec.origin.endswith(".py"):
        yield Path(spec.origin)


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())
