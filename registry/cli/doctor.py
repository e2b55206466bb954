"""``mszoo doctor``: what keeps MindSpore models from being served here, and the command that mends it."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from mszoo.registry.catalog import Catalog, load_catalog
from mszoo.registry.doctor import Finding, examine
from mszoo.registry.doctor.environment import Environment, read_environment
from mszoo.registry.doctor.imports import check_imports
from mszoo.registry.errors import LockError, SettingsError

from .report import DeviceOption, JsonOption, chosen_device, console, heading, print_json, table

_STYLES = {"problem": "bold red", "warning": "yellow", "info": ""}


def doctor(
    as_json: JsonOption = False,
    device: DeviceOption = None,
    imports: Annotated[
        bool, typer.Option("--imports", help="Also import vLLM and MindSpore, which takes seconds.")
    ] = False,
) -> None:
    """Find what keeps MindSpore models from being served here, and how to mend it.

    Exits with 1 if there is a problem; warnings and infos are none.
    """
    facts = read_environment(chosen_device(device))
    catalog, findings = _catalog(facts)
    findings += check_imports() if imports else ()
    findings += examine(facts, catalog)
    if as_json:
        print_json(doctor_json(catalog, facts, findings, imports))
    else:
        _print(catalog, facts, findings, imports)
    raise typer.Exit(1 if any(finding.level == "problem" for finding in findings) else 0)


def doctor_json(
    catalog: Catalog, facts: Environment, findings: list[Finding], imports: bool
) -> dict[str, Any]:
    """Return the report that ``mszoo doctor --json`` prints.

    Keys: ``mszoo`` (version), ``device``, ``digest``, ``disabled`` (plugin names), ``lock``, ``python`` (version),
    ``versions`` (of vLLM, MindSpore, torch and their relatives, by distribution), ``imports`` (whether they were
    tried), ``findings``; ``lock`` holds what it holds in ``mszoo list --json``.
    A finding has ``level`` (``problem``, ``warning`` or ``info``; the worst come first), ``who``, ``what`` and
    ``mend``, which ends with the command where one mends it.
    """
    return {
        **heading(catalog),
        "python": facts.python,
        "versions": dict(facts.versions),
        "imports": imports,
        "findings": [
            {"level": item.level, "who": item.who, "what": item.what, "mend": item.mend} for item in findings
        ],
    }


def _catalog(facts: Environment) -> tuple[Catalog, list[Finding]]:
    """Return the catalog; without the operator's settings where those are what is wrong."""
    try:
        return load_catalog(os.environ, facts.device), []
    except SettingsError:  # check_settings finds it
        return load_catalog({}, facts.device), []
    except LockError as error:
        rest = {name: value for name, value in os.environ.items() if name != "MSZOO_LOCK"}
        finding = Finding("problem", error.who, error.what, f"{error.mend} Or: unset MSZOO_LOCK")
        return load_catalog(rest, facts.device), [finding]


def _print(catalog: Catalog, facts: Environment, findings: list[Finding], imports: bool) -> None:
    out = console()
    rows = table("Level", "Finding")
    for finding in findings:
        text = f"{finding.who}: {finding.what}.\n{finding.mend}"
        rows.add_row(finding.level, text, style=_STYLES[finding.level], end_section=True)
    out.print(rows)
    problems = sum(finding.level == "problem" for finding in findings)
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    out.print(f"\nPython {facts.python}, {versions}")
    tried = "" if imports else "; imports were not tried: mszoo doctor --imports"
    out.print(f"Device {catalog.device}, decisions {catalog.digest()}, problems: {problems}{tried}")
