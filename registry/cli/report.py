"""What the reporting subcommands share: their options, their JSON and their tables."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mszoo.registry.catalog import Catalog
from mszoo.registry.decisions import Decision, Verdict
from mszoo.registry.devices import DEVICES, this_device
from mszoo.registry.entry_points import Plugin
from mszoo.registry.errors import Problem

_STYLES = {"won": "green", "fallback": "", "unavailable": "dim"}


def choice(values: Sequence[str], *names: str, help: str) -> Any:
    """Return a typer option that takes one of some values, as a string."""

    def parse(text: str) -> str:
        if text not in values:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(map(repr, values))}.")
        return text

    metavar = f"<{'|'.join(values)}>"
    return typer.Option(*names, parser=parse, metavar=metavar, autocompletion=lambda: list(values), help=help)


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
TrustOption = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="vLLM's option: Python files that come with the model are run."),
]
DeviceOption = Annotated[
    str | None,
    choice(DEVICES, "--device", help="Where to serve. Default: npu if vllm-ascend is installed."),
]


def chosen_device(device: str | None) -> str:
    """Return the device asked for, or the one that the installed vLLM would serve on."""
    return device or this_device() or DEVICES[0]


def grouped(pairs: Iterable[tuple[str, str]], joint: str = ", ") -> list[tuple[str, str]]:
    """Return the names that share a text, joined, with that text: one line for a reason that many have."""
    found: dict[str, list[str]] = {}
    for name, text in pairs:
        found.setdefault(text, []).append(name)
    return [(joint.join(names), text) for text, names in found.items()]


def heading(catalog: Catalog) -> dict[str, Any]:
    """Return the JSON keys that every report starts with."""
    return {
        "mszoo": importlib.metadata.version("mszoo"),
        "device": catalog.device,
        "digest": catalog.digest(),
        "disabled": [plugin.name for plugin in catalog.discovery.disabled],
        "lock": _lock_json(catalog),
    }


def _lock_json(catalog: Catalog) -> dict[str, Any] | None:
    """Return the lock in force: its ``file`` and the ``unlisted`` plugins, which are not loaded."""
    if catalog.settings.lock is None:
        return None
    unlisted = [plugin.name for plugin in catalog.discovery.unlisted]
    return {"file": str(catalog.settings.lock), "unlisted": unlisted}


def print_footing(out: Console, catalog: Catalog) -> None:
    """Print what the decisions rest on: the device, the digest, and what the operator left out."""
    out.print(f"\nDevice {catalog.device}, decisions {catalog.digest()}")
    if catalog.discovery.disabled:
        out.print(f"Disabled by MSZOO_DISABLE: {_names(catalog.discovery.disabled)}")
    if catalog.settings.lock is not None:
        out.print(f"Locked by {catalog.settings.lock}")
    if catalog.discovery.unlisted:
        out.print(f"Not in the lock, so not loaded: {_names(catalog.discovery.unlisted)}")


def _names(plugins: Iterable[Plugin]) -> str:
    return ", ".join(plugin.name for plugin in plugins)


def decision_json(decision: Decision) -> dict[str, Any]:
    """Return a decision as JSON; its candidates are in order, the winner first."""
    return {
        "architecture": decision.architecture,
        "pinned": decision.pinned,
        "winner": decision.winner.qualified_name if decision.winner else None,
        "candidates": [_verdict_json(verdict) for verdict in decision.verdicts],
    }


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    adapter, plugin = verdict.candidate.adapter, verdict.candidate.plugin
    return {
        "name": verdict.candidate.qualified_name,
        "suite": verdict.candidate.suite.name,
        "plugin": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "model": adapter.model,
        "capabilities": sorted(item.value for item in adapter.capabilities),
        "devices": list(adapter.devices),
        "dtypes": list(adapter.dtypes),
        "requires": [*verdict.candidate.suite.requires, *adapter.requires],
        "priority": adapter.priority,
        "refused": adapter.refused or None,
        "status": verdict.status,
        "reason": verdict.reason,
    }


def problems_json(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """Return problems as JSON."""
    return [
        {"who": item.who, "what": item.what, "mend": item.hint, "plugin": item.plugin} for item in problems
    ]


def print_json(report: dict[str, Any]) -> None:
    """Print a report for programs; plain ASCII, whatever the terminal's encoding is."""
    typer.echo(json.dumps(report, indent=2))


def console() -> Console:
    """Return where tables go; text of plugins is shown as it is, not read as mark-up."""
    return Console(markup=False, highlight=False, emoji=False, soft_wrap=False)


def table(*columns: str) -> Table:
    """Return an empty table whose cells fold, so that it fits a narrow terminal and loses nothing."""
    result = Table(show_edge=False, pad_edge=False)
    for column in columns:
        result.add_column(column, overflow="fold")
    return result


def style_of(verdict: Verdict) -> str:
    """Return the style of a candidate's row."""
    return _STYLES[verdict.status]


def print_problems(out: Console, problems: tuple[Problem, ...]) -> None:
    """Print problems, each with its cure."""
    if not problems:
        return
    out.print(f"\nProblems ({len(problems)}):", style="bold red")
    for problem in problems:
        out.print(f"- {problem}")
