"""``mszoo list``: the suites in short, and what one of them, or everybody for one name, registers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from mszoo.registry.catalog import Catalog
from mszoo.registry.cli import names
from mszoo.registry.cli.list.choice import Choice, choose
from mszoo.registry.cli.list.rows import print_list
from mszoo.registry.cli.report import (
    DeviceOption,
    JsonOption,
    chosen_device,
    decision_json,
    heading,
    print_json,
    problems_json,
)
from mszoo.registry.decisions import Decision
from mszoo.registry.discovery import Contribution
from mszoo.registry.load import load_catalog
from mszoo.registry.missing import missing_code


def list_adapters(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            autocompletion=names.complete_names,
            help="Show the rows of a suite (native), an architecture, a layer (RMSNorm) or an op (rms_norm). "
            "Default: the suites in short.",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite", metavar="NAME", autocompletion=names.complete_suites, help="Show one suite's rows."
        ),
    ] = None,
    as_json: JsonOption = False,
    device: DeviceOption = None,
) -> None:
    """List the suites, how much each registers, and with a name what that is.

    Exits with 1 if a plugin or setting has a problem, or if code or a layer that a shown record names isn't there;
    with 2 if nobody has the name.
    """
    catalog = load_catalog(device=chosen_device(device))
    choice = choose(catalog, name, suite)
    missing = missing_code(catalog, None if choice is None else choice.subjects(catalog))
    if as_json:
        print_json(list_json(catalog, choice))
    else:
        print_list(catalog, choice, missing)
    raise typer.Exit(1 if catalog.problems or missing else 0)


def list_json(catalog: Catalog, choice: Choice | None = None) -> dict[str, Any]:
    """Return the report that ``mszoo list --json`` prints.

    Keys: ``mszoo`` (version), ``device``, ``digest``, ``disabled`` (plugin names), ``lock``, ``suites``,
    ``architectures``, ``layers``, ``ops``, ``missing``, ``problems``.
    With a name, ``suites``, ``architectures``, ``layers`` and ``ops`` hold what it means.
    ``lock`` is null, or has ``file`` and ``unlisted`` (names of plugins that are not loaded).
    A suite has ``name``, ``description``, ``plugin``, ``distribution``, ``version``, the numbers of its ``models``,
    ``layers`` and ``ops``, and ``unusable``: null, or what is not installed and the command that installs it.
    An architecture has ``architecture``, ``pinned``, ``winner`` (a qualified name, or null where vLLM's own
    model serves) and ``candidates``: in order, each with ``name`` (qualified), ``suite``, ``plugin``,
    ``distribution``, ``version``, ``model``, ``capabilities``, ``devices``, ``dtypes``, ``requires``,
    ``priority``, ``refused`` (why the suite can't have it served; else null), ``status`` (``won``, ``fallback`` or
    ``unavailable``) and ``reason``.
    Layers and ops have ``subject`` (a layer's target, an op), ``winner`` and ``candidates``, each with ``name``,
    ``suite``, ``code`` (``module:object``), ``kernel_set`` (null for a layer), ``status`` and ``reason``.
    A problem has ``who``, ``what``, ``mend`` and ``plugin`` (null where no plugin is at fault); ``missing`` has
    those of records whose code or layer isn't there.
    """
    subjects = None if choice is None else choice.subjects(catalog)

    def shown(decisions: Mapping[str, Decision]) -> list[Decision]:
        return [item for name, item in decisions.items() if subjects is None or name in subjects]

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
            if choice is None or choice.suite in (None, item.suite.name)
        ],
        "architectures": [decision_json(decision) for decision in shown(catalog.decisions())],
        "layers": [_part_json(decision) for decision in shown(catalog.layer_decisions())],
        "ops": [_part_json(decision) for decision in shown(catalog.op_decisions())],
        "missing": problems_json(missing_code(catalog, subjects)),
        "problems": problems_json(catalog.problems),
    }


def _part_json(decision: Decision) -> dict[str, Any]:
    """Return a decision about a layer or an op."""
    return {
        "subject": decision.subject,
        "winner": decision.winner.qualified_name if decision.winner else None,
        "candidates": [
            {
                "name": verdict.candidate.qualified_name,
                "suite": verdict.candidate.suite.name,
                "code": verdict.candidate.adapter.implementation,
                "kernel_set": getattr(verdict.candidate.adapter, "kernel_set", None),
                "status": verdict.status,
                "reason": verdict.reason,
            }
            for verdict in decision.verdicts
        ],
    }


def _architectures(contribution: Contribution) -> int:
    """Return how many a suite has; it may have a record for each device."""
    return len({adapter.architecture for adapter in contribution.models})
