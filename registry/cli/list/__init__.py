"""``mszoo list``: the suites, their models and who serves each architecture."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console

from mszoo.registry.catalog import Catalog
from mszoo.registry.cli.report import (
    DeviceOption,
    JsonOption,
    chosen_device,
    console,
    decision_json,
    grouped,
    heading,
    print_footing,
    print_json,
    print_problems,
    problems_json,
    style_of,
    table,
)
from mszoo.registry.discovery import Contribution
from mszoo.registry.load import load_catalog


def list_adapters(as_json: JsonOption = False, device: DeviceOption = None) -> None:
    """List the suites and the models that they register.

    Exits with 1 if a plugin or setting has a problem.
    """
    catalog = load_catalog(device=chosen_device(device))
    if as_json:
        print_json(list_json(catalog))
    else:
        _print(catalog)
    raise typer.Exit(1 if catalog.problems else 0)


def list_json(catalog: Catalog) -> dict[str, Any]:
    """Return the report that ``mszoo list --json`` prints.

    Keys: ``mszoo`` (version), ``device``, ``digest``, ``disabled`` (plugin names), ``lock``, ``suites``,
    ``architectures``, ``problems``.
    ``lock`` is null, or has ``file`` and ``unlisted`` (names of plugins that are not loaded).
    A suite has ``name``, ``description``, ``plugin``, ``distribution``, ``version``, the numbers of its ``models``,
    ``layers`` and ``ops``, and ``unusable``: null, or what is not installed and the command that installs it.
    An architecture has ``architecture``, ``pinned``, ``winner`` (a qualified name, or null where vLLM's own
    model serves) and ``candidates``: in order, each with ``name`` (qualified), ``suite``, ``plugin``,
    ``distribution``, ``version``, ``model``, ``capabilities``, ``devices``, ``dtypes``, ``requires``,
    ``priority``, ``refused`` (why the suite can't have it served; else null), ``status`` (``won``, ``fallback`` or
    ``unavailable``) and ``reason``.
    A problem has ``who``, ``what``, ``mend`` and ``plugin`` (null where no plugin is at fault).
    """
    return {
        **heading(catalog),
        "suites": [
            {
                "name": item.suite.name,
                "description": item.suite.description,
                "plugin": item.plugin.name,
                "distribution": item.plugin.distribution,
                "version": item.plugin.version,
                "models": _architectures(item),
                "layers": len(item.layers),
                "ops": len(item.ops),
                "unusable": catalog.suite_obstacle(item.suite),
            }
            for item in catalog.discovery.contributions
        ],
        "architectures": [decision_json(decision) for decision in catalog.decisions().values()],
        "problems": problems_json(catalog.problems),
    }


def _architectures(contribution: Contribution) -> int:
    """Return how many a suite has; it may have a record for each device."""
    return len({adapter.architecture for adapter in contribution.models})


def _print(catalog: Catalog) -> None:
    out = console()
    suites = table("Suite", "From", "Models", "Description")
    for item in catalog.discovery.contributions:
        suites.add_row(item.suite.name, item.plugin.source, str(_architectures(item)), item.suite.description)
    out.print(suites)
    unusable = _print_unusable(out, catalog)
    models = table("Architecture", "Suite", "Verdict", "Reason")
    for name, decision in catalog.decisions().items():
        shown = name
        for verdict in decision.verdicts:
            suite = verdict.candidate.suite.name
            if suite not in unusable and not verdict.candidate.adapter.refused:
                models.add_row(shown, suite, verdict.status, verdict.reason, style=style_of(verdict))
                shown = ""
    out.print()
    out.print(models)
    _print_refused(out, catalog, unusable)
    print_footing(out, catalog)
    print_problems(out, catalog.problems)


def _print_refused(out: Console, catalog: Catalog, unusable: set[str]) -> None:
    """Print what suites have and can't have served, by reason."""
    refused = [
        (model.architecture, item.suite.name, model.refused)
        for item in catalog.discovery.contributions
        for model in item.models
        if model.refused and item.suite.name not in unusable
    ]
    if refused:
        out.print(f"\nIn a suite, and can't be served ({len(refused)}):", style="bold")
    for names, why in grouped((name, f"{suite}, {reason}") for name, suite, reason in refused):
        out.print(f"- {why}: {names}")


def _print_unusable(out: Console, catalog: Catalog) -> set[str]:
    """Print what the suites that can't be used need, and their models: one reason for all, not one for each."""
    found = set()
    for item in catalog.discovery.contributions:
        obstacle = catalog.suite_obstacle(item.suite)
        if obstacle is not None:
            found.add(item.suite.name)
            models = ", ".join(sorted({model.architecture for model in item.models}))
            out.print(f"\n{item.suite.name} {obstacle}", style="bold")
            out.print(f"Its models: {models or 'none'}")
    return found
