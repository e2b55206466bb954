"""``mszoo doctor``: what keeps MindSpore models from being served here, and the command that mends it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from mszoo.registry.catalog import Catalog
from mszoo.registry.cli.doctor.environment import Environment, read_environment
from mszoo.registry.cli.doctor.fix import fix as run_fixes
from mszoo.registry.cli.doctor.imports import check_imports
from mszoo.registry.cli.doctor.kernels import check_kernels
from mszoo.registry.cli.doctor.plugins import plugins_findings
from mszoo.registry.cli.doctor.settings import check_settings
from mszoo.registry.cli.doctor.stack import check_stack
from mszoo.registry.cli.doctor.suites import check_classes, check_plugins, check_suites
from mszoo.registry.cli.doctor.vllm import check_installed, print_report, report_json, vllm_report
from mszoo.registry.cli.doctor.vllm_plugins import check_fork, check_vllm_plugins
from mszoo.registry.cli.report import (
    DeviceOption,
    JsonOption,
    chosen_device,
    console,
    heading,
    print_json,
    table,
)
from mszoo.registry.devices import TABLE
from mszoo.registry.errors import LockError, SettingsError
from mszoo.registry.finding import LEVELS, Finding
from mszoo.registry.load import load_catalog
from mszoo.registry.objects import load_object

_STYLES = {"problem": "bold red", "warning": "yellow", "info": ""}


def doctor(
    as_json: JsonOption = False,
    device: DeviceOption = None,
    imports: Annotated[
        bool, typer.Option("--imports", help="Also import vLLM and MindSpore, which takes seconds.")
    ] = False,
    vllm: Annotated[
        str | None,
        typer.Option(
            "--vllm",
            metavar="PATH-OR-VERSION",
            help="Say what another vLLM lacks, by its sources: a folder, a wheel, or a version to download.",
        ),
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Show the commands that mend what was found, ask, and run them.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --fix: don't ask.")] = False,
) -> None:
    """Find what keeps MindSpore models from being served here, and how to mend it.

    Exits with 1 if there is a problem; warnings and infos are none.
    """
    if fix and (as_json or vllm is not None):
        raise typer.BadParameter("--fix asks a person: it goes with neither --json nor --vllm.")
    if yes and not fix:
        raise typer.BadParameter("--yes goes with --fix.")
    if vllm is not None:
        place, report = vllm_report(vllm)
        if as_json:
            print_json(report_json(place, report))
        else:
            print_report(place, report)
        raise typer.Exit(0 if report.is_usable else 1)
    facts = read_environment(chosen_device(device))
    catalog, findings = _catalog(facts)
    findings += check_imports(device=facts.device) if imports else ()
    findings += examine(facts, catalog)
    if fix:
        raise typer.Exit(run_fixes(findings, facts.device, yes=yes))
    if as_json:
        print_json(doctor_json(catalog, facts, findings, imports))
    else:
        _print(catalog, facts, findings, imports)
    raise typer.Exit(1 if any(finding.level == "problem" for finding in findings) else 0)


def examine(facts: Environment, catalog: Catalog) -> list[Finding]:
    """Return all findings, the worst first; nothing is imported but the plugins, which the catalog did."""
    findings = [
        *check_stack(facts),
        *check_installed(),
        *check_vllm_plugins(facts),
        *check_fork(facts),
        *check_settings(facts, catalog.kernel_sets),
        *check_plugins(catalog),
        *check_suites(catalog),
        *check_classes(catalog),
        *check_kernels(facts),
        *_check_devices(facts),
        *plugins_findings(catalog),
    ]
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def _check_devices(facts: Environment) -> Iterator[Finding]:
    """Ask about all devices: what is there of another one may be half an installation of it."""
    for device in TABLE.values():
        if device.doctor:
            yield from load_object(device.doctor)(facts)


def doctor_json(
    catalog: Catalog, facts: Environment, findings: list[Finding], imports: bool
) -> dict[str, Any]:
    """Return the report that ``mszoo doctor --json`` prints.

    Keys: ``mszoo`` (version), ``device``, ``digest``, ``disabled`` (plugin names), ``lock``, ``python`` (version),
    ``versions`` (of vLLM, MindSpore, torch and their relatives, by distribution), ``imports`` (whether they were
    tried), ``findings``; ``lock`` holds what it holds in ``mszoo list --json``.
    A finding has ``level`` (``problem``, ``warning`` or ``info``; the worst come first), ``who``, ``what``,
    ``mend``, which ends with the command where one does it, and ``fix``, the command that ``--fix`` runs (a list).
    """
    return {
        **heading(catalog),
        "python": facts.python,
        "versions": dict(facts.versions),
        "imports": imports,
        "findings": [
            {
                "level": item.level,
                "who": item.who,
                "what": item.what,
                "mend": item.hint,
                "fix": list(item.fix),
            }
            for item in findings
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
        finding = Finding("problem", error.who, error.what, f"{error.hint} Or: unset MSZOO_LOCK")
        return load_catalog(rest, facts.device), [finding]


def _print(catalog: Catalog, facts: Environment, findings: list[Finding], imports: bool) -> None:
    out = console()
    rows = table("Level", "Finding")
    for finding in findings:
        text = f"{finding.who}: {finding.what}.\n{finding.hint}"
        rows.add_row(finding.level, text, style=_STYLES[finding.level], end_section=True)
    out.print(rows)
    problems = sum(finding.level == "problem" for finding in findings)
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    out.print(f"\nPython {facts.python}, {versions}")
    tried = "" if imports else "; imports were not tried: mszoo doctor --imports"
    out.print(f"Device {catalog.device}, decisions {catalog.digest()}, problems: {problems}{tried}")
