"""``mszoo explain``: who serves one architecture or the model in a folder, and why."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mszoo.adapters.vllm.cli.explain.folder import config_fields
from mszoo.adapters.vllm.cli.explain.model import server, vllm_json
from mszoo.adapters.vllm.cli.explain.parts import print_layers, print_ops
from mszoo.adapters.vllm.cli.explain.processes import (
    print_processes,
    processes_json,
)
from mszoo.adapters.vllm.cli.explain.report import Report
from mszoo.adapters.vllm.cli.explain.subject import resolve
from mszoo.adapters.vllm.cli.explain.verdict import print_verdict
from mszoo.registry.catalog import Catalog
from mszoo.registry.cli import names
from mszoo.registry.cli.page import HtmlOption, check_can_write, write_page
from mszoo.registry.cli.report import (
    DeviceOption,
    JsonOption,
    TrustOption,
    choice,
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
from mszoo.registry.decisions import Decision
from mszoo.registry.errors import MszooError
from mszoo.registry.load import load_catalog
from mszoo.registry.records import DTYPES


def explain(
    target: Annotated[
        str,
        typer.Argument(
            metavar="ARCH|DIR",
            autocompletion=names.complete_explained,
            help="An architecture, plain (LlamaForCausalLM) or of one suite (native.LlamaForCausalLM), "
            "or a model folder; also an op (rms_norm) or a layer (RMSNorm).",
        ),
    ],
    ops: Annotated[bool, typer.Option("--ops", help="Show which kernel runs each op, and why.")] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Show the layers that adapters replace.")] = False,
    build: Annotated[
        bool,
        typer.Option(
            help="Build what would serve DIR, take a step, and compare its checkpoint, as vLLM would at start; "
            "takes seconds. Without: what the adapters' records say."
        ),
    ] = True,
    processes: Annotated[
        bool,
        typer.Option(
            "--processes", help="Start vLLM's processes on DIR and compare what each of them decided."
        ),
    ] = False,
    dtype: Annotated[
        str | None,
        choice(DTYPES, help="What all of it is asked for. Default: DIR's, else the winner's first."),
    ] = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
    html: HtmlOption = None,
    device: DeviceOption = None,
) -> None:
    """Explain which adapter serves an architecture or a model folder.

    Exits with 1 if no MindSpore model serves it, if vLLM's processes disagree, or if a plugin or setting has a
    problem.
    """
    catalog = load_catalog(device=chosen_device(device))
    asked = resolve(target, catalog)
    check_can_write(html)
    if asked.folder is None and processes:
        raise typer.BadParameter("give a model folder", param_hint="--processes")
    config = None if asked.folder is None else config_fields(asked.folder)
    decisions = [catalog.decide(name, config) for name in asked.architectures]
    report = Report(catalog, decisions, asked)
    try:
        # What takes long comes last: in a terminal the rest is read meanwhile.
        whole = html is not None and not (asked.ops or asked.layers)
        report.add_parts(ops or whole, layers or whole, dtype)
        if not as_json:
            _print(report, ops=ops or bool(asked.ops), layers=layers or bool(asked.layers))
        if build and device is None and not processes:  # vLLM's processes build it themselves
            report.add_verdict(dtype, trust_remote_code)
            if not as_json and report.verdict is not None:
                print_verdict(console(), report.verdict)
        if processes:
            report.add_processes(trust_remote_code)
            if not as_json and report.processes is not None:
                print_processes(console(), report.processes)
    except MszooError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    if html is not None:
        write_page(html, "explain", explain_json(report))
    if as_json:
        print_json(explain_json(report))
    else:
        print_problems(console(), catalog.problems)
    raise typer.Exit(0 if report.good else 1)


def explain_json(report: Report) -> dict[str, Any]:
    """Return what ``mszoo explain --json`` prints.

    Keys: ``mszoo`` (version), ``device``, ``digest``, ``disabled`` (plugin names), ``lock``, ``folder`` (null for
    an architecture), ``architectures``, ``serves``, ``ops``, ``layers``, ``processes``, ``problems``; ``lock`` and
    ``problems`` hold what they hold in ``mszoo list --json``.
    An architecture has what it has there, and ``class``, ``last_resort``, ``refuses``: see vllm_json. One that
    nobody provides has no candidates. vLLM serves the first architecture that it knows.
    ``serves`` says who serves a folder: the fields of Verdict; null for an architecture and with --no-build.
    ``ops``, ``layers`` and ``processes`` are null unless asked for: see ops_json, layers_json, processes_json.
    """
    architectures = [{**decision_json(decision), **vllm_json(decision)} for decision in report.decisions]
    return {
        **heading(report.catalog),
        "folder": str(report.folder) if report.folder else None,
        "architectures": architectures,
        "serves": None if report.verdict is None else asdict(report.verdict),
        "ops": report.ops,
        "layers": report.layers,
        "processes": processes_json(report.processes) if report.processes is not None else None,
        "problems": problems_json(report.catalog.problems),
    }


def _print(report: Report, *, ops: bool, layers: bool) -> None:
    out = console()
    catalog = report.catalog
    if report.folder is not None:
        out.print(f"{report.folder}: {', '.join(decision.subject for decision in report.decisions)}\n")
    for decision in report.decisions:
        _print_decision(out, catalog, decision)
    for problem in report.missing:
        out.print(f"It will fail: {problem}", style="bold red")
    if ops and report.ops is not None:
        print_ops(out, report.ops)
    if layers and report.layers is not None:
        print_layers(out, report.layers, report.served_by, report.families)
    print_footing(out, catalog)


def _print_decision(out: Console, catalog: Catalog, decision: Decision) -> None:
    vllm = vllm_json(decision)
    own = vllm["last_resort"]
    out.print(f"{decision.subject} is served by {server(decision)}", style="bold")
    if not decision.verdicts:
        nearest = names.nearest(catalog, decision.subject)
        out.print(f"No suite provides {decision.subject}. {nearest}")
    else:
        out.print(_candidates(decision))
    if decision.winner is not None:
        out.print(f"vLLM gets {vllm['class']}, which builds {decision.winner.adapter.model}")
        out.print(f"Refused by its record: {', '.join(vllm['refuses']) or 'nothing'}")
    if decision.pinned:
        out.print("Nobody else is asked if it refuses: the name is that of one suite")
    else:
        out.print(f"The last resort is {own or 'nobody: vLLM has no model of that name here'}")


def _candidates(decision: Decision) -> Table:
    rows = table("Suite", "From", "Verdict", "Model and reason")
    for verdict in decision.verdicts:
        candidate = verdict.candidate
        rows.add_row(
            candidate.suite.name,
            candidate.plugin.source,
            verdict.status,
            f"{candidate.adapter.model}\n{verdict.reason}",
            style=style_of(verdict),
            end_section=True,
        )
    return rows
