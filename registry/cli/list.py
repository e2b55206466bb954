"""``mszoo list``: the suites, their models and who serves each architecture."""

from __future__ import annotations

from typing import Any

import typer

from mszoo.registry.catalog import Catalog, load_catalog

from .report import (
    DeviceOption,
    JsonOption,
    chosen_device,
    console,
    decision_json,
    heading,
    print_footing,
    print_json,
    print_problems,
    problems_json,
    style_of,
    table,
)


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
    A suite has ``name``, ``description``, ``plugin``, ``distribution``, ``version``, and the numbers of its
    ``models``, ``layers`` and ``ops``.
    An architecture has ``architecture``, ``pinned``, ``winner`` (a qualified name, or null where vLLM's own
    model serves) and ``candidates``: in order, each with ``name`` (qualified), ``suite``, ``plugin``,
    ``distribution``, ``version``, ``model``, ``capabilities``, ``devices``, ``dtypes``, ``requires``,
    ``priority``, ``status`` (``won``, ``fallback`` or ``unavailable``) and ``reason``.
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
                "models": len(item.models),
                "layers": len(item.layers),
                "ops": len(item.ops),
            }
            for item in catalog.discovery.contributions
        ],
        "architectures": [decision_json(decision) for decision in catalog.decisions().values()],
        "problems": problems_json(catalog.problems),
    }


def _print(catalog: Catalog) -> None:
    out = console()
    suites = table("Suite", "From", "Models", "Description")
    for item in catalog.discovery.contributions:
        source = f"{item.plugin.distribution} {item.plugin.version}"
        suites.add_row(item.suite.name, source, str(len(item.models)), item.suite.description)
    out.print(suites)
    models = table("Architecture", "Suite", "Verdict", "Reason")
    for name, decision in catalog.decisions().items():
        for verdict in decision.verdicts:
            shown = name if verdict is decision.verdicts[0] else ""
            suite = verdict.candidate.suite.name
            models.add_row(shown, suite, verdict.status, verdict.reason, style=style_of(verdict))
    out.print()
    out.print(models)
    print_footing(out, catalog)
    print_problems(out, catalog.problems)
