"""What ``mszoo lock --explain`` says: what a lock file holds to, and what it leaves open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mszoo.registry.cli.report import console
from mszoo.registry.fingerprints import NAMESPACE
from mszoo.registry.lock import Lock

#: What is compared, and when.
HOLDS = (
    "At start, in every process of vLLM: of each listed distribution, each module that the import system would "
    "load, found as Python finds it, and each library beside them. One that is changed, added, gone, hidden by "
    "another, or brought by a loader that isn't Python's own stops the start.",
    "From then on: a module of a listed distribution runs from the very bytes that were compared. Python's caches "
    "of bytecode (__pycache__) are not read for it, and a file that changes after the start doesn't run.",
    "Before a model serves: where each module in the process came from, what was imported from the folders of the "
    "listed distributions under other names, caches of bytecode that Python read before mszoo, and the libraries.",
    "A plugin, command, set of ops or conformance module of a distribution that isn't listed is not imported by "
    "mszoo.",
    "Who serves each architecture, layer and op, and in what order; the device, MSZOO_KERNELS and MSZOO_PREFER; "
    "the versions of mszoo, of the plugins, and of what the chosen adapters require.",
)

#: What a lock says nothing of.
LEAVES_OPEN = (
    "The code of dependencies: vLLM, torch, MindSpore and all that plugins import from other distributions. Of "
    "those that adapters require the version is compared, of single modules that records name the code.",
    "Data that is read at run time: checkpoints, configs, templates, package data, code in files that isn't "
    "imported (exec, runpy), and libraries that are loaded from elsewhere.",
    "What runs before mszoo or without it: Python, sitecustomize, .pth files and the finders of editable "
    "installations, and other packages' plugins of vLLM (list those that may run in VLLM_PLUGINS).",
    "Functions and attributes that code in the process replaces while it runs, and modules that it forges with all "
    "that Python notes of true ones.",
    "A compiled module that is exchanged between the moment it is compared and the moment it is loaded; it is "
    "compared again before the model serves.",
    "Someone who can write the lock file, mszoo's own code, or the environment of the server: keep these out of "
    "the reach of whom you don't trust.",
)


def explain_json(lock: Lock, path: Path) -> dict[str, Any]:
    """Return the report that ``mszoo lock --explain --json`` prints.

    Keys: ``file``, ``holds`` and ``leaves_open`` (sentences), ``distributions``, ``named`` (modules that records
    name and no listed distribution has, with their hashes), ``requires`` (versions by distribution). A distribution
    has ``version`` (null for one that isn't known), ``plugins``, ``modules`` and ``files`` (how many).
    """
    return {
        "file": str(path),
        "holds": list(HOLDS),
        "leaves_open": list(LEAVES_OPEN),
        "distributions": {name: _distribution(lock, name) for name in lock.code},
        "named": {
            name: text
            for plugin in lock.plugins.values()
            for name, text in plugin.modules.items()
            if name not in lock.code.get(plugin.distribution, {})
        },
        "requires": dict(lock.requires),
    }


def print_explanation(report: dict[str, Any]) -> None:
    """Print what :func:`explain_json` gives."""
    out = console()
    out.print(f"{report['file']} holds to", style="bold", soft_wrap=True)
    for line in (*_details(report), *report["holds"]):
        out.print(f"- {line}")
    out.print("\nIt leaves open", style="bold")
    for line in report["leaves_open"]:
        out.print(f"- {line}")


def _details(report: dict[str, Any]) -> Iterator[str]:
    for name, item in report["distributions"].items():
        version = f" {item['version']}" if item["version"] else ""
        plugins = f"plugins {', '.join(item['plugins'])}" if item["plugins"] else "no plugin"
        yield f"{name}{version} ({plugins}): {item['modules']} modules, {item['files']} other files of code"
    if report["named"]:
        yield f"Of other distributions, modules that records name: {', '.join(report['named'])}"
    if report["requires"]:
        versions = (f"{name} {version or '(not installed)'}" for name, version in report["requires"].items())
        yield f"Versions of what adapters require: {', '.join(versions)}"


def _distribution(lock: Lock, name: str) -> dict[str, Any]:
    code = lock.code[name]
    plugins = {key: item for key, item in lock.plugins.items() if item.distribution == name}
    versions = {item.version for item in plugins.values()} | ({lock.mszoo} if name == "mszoo" else set())
    files = sum("/" in key for key in code)
    namespaces = sum(text == NAMESPACE for text in code.values())
    return {
        "version": min(versions, default=None),
        "plugins": sorted(plugins),
        "modules": len(code) - files - namespaces,
        "files": files,
    }
