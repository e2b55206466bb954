"""``mszoo explain``: who serves one architecture or the model in a folder, and why."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mszoo.registry.catalog import Candidate, Catalog, Decision, load_catalog
from mszoo.registry.errors import MszooError
from mszoo.registry.records import DTYPES

from .explain_model import Reading, config_dtype, config_fields, read_configs, vllm_json
from .explain_parts import layers_json, ops_json, print_layers, print_ops
from .explain_processes import Processes, print_processes, processes_json, start, tensor_parallel
from .report import (
    DeviceOption,
    JsonOption,
    chosen_device,
    complete_architectures,
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


class Dtype(str, Enum):
    """What a model computes in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


_ARCHITECTURE = re.compile(r"([A-Za-z_][\w-]*\.)?[A-Za-z_]\w*")


def explain(
    target: Annotated[
        str,
        typer.Argument(
            metavar="ARCH|DIR",
            autocompletion=complete_architectures,
            help="An architecture, plain (LlamaForCausalLM) or of one suite (native.LlamaForCausalLM), "
            "or a model folder.",
        ),
    ],
    ops: Annotated[bool, typer.Option("--ops", help="Show which kernel runs each op, and why.")] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Show the layers that adapters replace.")] = False,
    config: Annotated[
        bool, typer.Option("--config", help="Let the models read DIR's config.json; takes seconds.")
    ] = False,
    processes: Annotated[
        bool,
        typer.Option(
            "--processes", help="Start vLLM's processes on DIR and compare what each of them decided."
        ),
    ] = False,
    dtype: Annotated[
        Dtype | None,
        typer.Option(help="What --ops and --layers ask about. Default: DIR's, else the winner's first."),
    ] = None,
    as_json: JsonOption = False,
    device: DeviceOption = None,
) -> None:
    """Explain which adapter serves an architecture or a model folder.

    Exits with 1 if no MindSpore model serves it, if vLLM's processes disagree, or if a plugin or setting has a
    problem.
    """
    catalog = load_catalog(device=chosen_device(device))
    names, folder = _resolve(target, catalog)
    if folder is None and (config or processes):
        raise typer.BadParameter("give a model folder", param_hint="--config" if config else "--processes")
    decisions = [catalog.decide(name) for name in names]
    report = Report(catalog, decisions, folder)
    try:
        # What takes long comes last: in a terminal the rest is read meanwhile.
        report.add_parts(ops, layers, dtype.value if dtype is not None else None)
        if not as_json:
            _print(report)
        if config:
            report.add_config()
            if not as_json:
                _print_config(console(), report)
        if processes:
            report.add_processes()
            if not as_json and report.processes is not None:
                print_processes(console(), report.processes)
    except MszooError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    if as_json:
        print_json(explain_json(report))
    else:
        print_problems(console(), catalog.problems)
    raise typer.Exit(0 if report.good else 1)


@dataclass
class Report:
    """What was found out.

    Args:
        catalog: where the decisions come from.
        decisions: one per architecture asked about.
        folder: the model folder; None for an architecture.
        ops, layers, configs, processes: what was asked for beyond the decisions; None where it wasn't.
    """

    catalog: Catalog
    decisions: list[Decision]
    folder: Path | None
    ops: dict[str, Any] | None = None
    layers: list[dict[str, Any]] | None = None
    configs: list[list[Reading]] | None = None
    processes: Processes | None = None

    @property
    def winners(self) -> list[Candidate]:
        """Who serves the architectures that are served."""
        return [decision.winner for decision in self.decisions if decision.winner is not None]

    @property
    def good(self) -> bool:
        """Whether a MindSpore model serves, and nothing is wrong."""
        refused = self.configs is not None and not any(
            reading.accepted is not False for readings in self.configs for reading in readings
        )
        started = self.processes is None or (self.processes.agree and self.processes.served)
        return bool(self.winners) and not refused and started and not self.catalog.problems

    @property
    def served_by(self) -> set[str]:
        """The suites whose models serve the architectures."""
        return {winner.suite.name for winner in self.winners}

    @property
    def families(self) -> set[str]:
        """The ``model_type`` of the models asked about, as far as it is known."""
        if self.folder is not None:
            found = [config_fields(self.folder).get("model_type")]
        else:
            found = [winner.adapter.example_config.get("model_type") for winner in self.winners]
        return {item for item in found if isinstance(item, str)}

    def add_parts(self, ops: bool, layers: bool, dtype: str | None) -> None:
        """Find out who runs ops and layers; RefusalError if no kernel set serves the dtype."""
        if not ops and not layers:
            return
        declared = config_dtype(self.folder) if self.folder is not None else None
        own = next((winner.adapter.dtypes[0] for winner in self.winners), DTYPES[0])
        chosen = dtype or (declared if declared in DTYPES else own)
        if ops:
            self.ops = ops_json(self.catalog, chosen)
        if layers:
            self.layers = layers_json(self.catalog, self.served_by, chosen)

    def add_config(self) -> None:
        """Let the candidates read the folder's config.json."""
        if self.folder is not None:
            self.configs = [read_configs(decision, self.folder) for decision in self.decisions]

    def add_processes(self) -> None:
        """Start vLLM's processes on the folder."""
        if self.folder is not None:
            fields = config_fields(self.folder)
            workers, reason = tensor_parallel(next(iter(self.winners), None), fields)
            self.processes = start(self.folder, workers, reason)


def explain_json(report: Report) -> dict[str, Any]:
    """Return what ``mszoo explain --json`` prints.

    Keys: ``mszoo`` (version), ``device``, ``digest``, ``disabled`` (plugin names), ``lock``, ``folder`` (null for
    an architecture), ``architectures``, ``ops``, ``layers``, ``processes``, ``problems``; ``lock`` and
    ``problems`` hold what they hold in ``mszoo list --json``.
    An architecture has what it has there, and ``class``, ``last_resort``, ``refuses``: see vllm_json; and with
    --config ``config``: the candidates asked, each with ``adapter``, ``accepted`` (null if it can't be asked
    before it is loaded) and ``reason``. One that nobody provides has no candidates. vLLM serves the first
    architecture that it knows.
    ``ops``, ``layers`` and ``processes`` are null unless asked for: see ops_json, layers_json, processes_json.
    """
    configs: Sequence[list[Reading] | None] = report.configs or [None] * len(report.decisions)
    architectures = [
        {
            **decision_json(decision),
            **vllm_json(decision),
            "config": None if readings is None else [asdict(reading) for reading in readings],
        }
        for decision, readings in zip(report.decisions, configs, strict=True)
    ]
    return {
        **heading(report.catalog),
        "folder": str(report.folder) if report.folder else None,
        "architectures": architectures,
        "ops": report.ops,
        "layers": report.layers,
        "processes": processes_json(report.processes) if report.processes is not None else None,
        "problems": problems_json(report.catalog.problems),
    }


def read_architectures(folder: Path) -> list[str]:
    """Return the ``architectures`` of a model folder's config.json.

    Raises:
        MszooError: the folder or its config.json is missing or unreadable, or names no architecture.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "doesn't exist"
        raise MszooError(
            str(folder), what, "Give a model folder, or an architecture such as LlamaForCausalLM."
        )
    mend = "Give the folder of a Hugging Face model."
    if not path.is_file():
        raise MszooError(str(folder), "has no config.json", mend)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MszooError(str(path), f"can't be read ({error.strerror})", "Check its permissions.") from error
    except (ValueError, RecursionError) as error:
        raise MszooError(str(path), f"is not valid JSON ({error})", "Download the model again.") from error
    names = config.get("architectures") if isinstance(config, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        mend = 'Add "architectures", such as ["LlamaForCausalLM"].'
        raise MszooError(str(path), "names no architectures", mend)
    return names


def _resolve(target: str, catalog: Catalog) -> tuple[list[str], Path | None]:
    """Return the architectures that the target means, and the folder if it is one."""
    folder = Path(target).expanduser()
    if catalog.decide(target).verdicts or (_ARCHITECTURE.fullmatch(target) and not folder.exists()):
        return [target], None
    return read_architectures(folder), folder


def _print(report: Report) -> None:
    out = console()
    catalog = report.catalog
    if report.folder is not None:
        out.print(f"{report.folder}: {', '.join(decision.subject for decision in report.decisions)}\n")
    for decision in report.decisions:
        _print_decision(out, catalog, decision)
    if report.folder is not None and report.winners and report.configs is None:
        out.print(
            "Other fields of config.json are checked when the model is loaded; --config checks them now"
        )
    if report.ops is not None:
        print_ops(out, report.ops)
    if report.layers is not None:
        print_layers(out, report.layers, report.served_by, report.families)
    print_footing(out, catalog)


def _print_decision(out: Console, catalog: Catalog, decision: Decision) -> None:
    vllm = vllm_json(decision)
    own = vllm["last_resort"]
    winner = decision.winner.qualified_name if decision.winner else "vLLM's own model, if it has one"
    out.print(f"{decision.subject} is served by {winner}", style="bold")
    if not decision.verdicts:
        out.print(f"No suite provides {decision.subject}.{_nearest(catalog, decision.subject)}")
    else:
        out.print(_candidates(decision))
    if decision.winner is not None:
        out.print(f"vLLM gets {vllm['class']}, which builds {decision.winner.adapter.model}")
        out.print(f"Refused by its record: {', '.join(vllm['refuses'])}")
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
            f"{candidate.plugin.distribution} {candidate.plugin.version}",
            verdict.status,
            f"{candidate.adapter.model}\n{verdict.reason}",
            style=style_of(verdict),
            end_section=True,
        )
    return rows


def _print_config(out: Console, report: Report) -> None:
    out.print("\nconfig.json", style="bold")
    verdicts = {True: "accepts it", False: "refuses it", None: "can't be asked"}
    for decision, readings in zip(report.decisions, report.configs or (), strict=True):
        for reading in readings:
            why = f": {reading.reason}" if reading.reason else ""
            out.print(f"{reading.adapter} {verdicts[reading.accepted]}{why}")
        if readings and all(reading.accepted is False for reading in readings):
            own = vllm_json(decision)["last_resort"]
            out.print(f"So {decision.subject} is left to {own or 'nobody'}")


def _nearest(catalog: Catalog, name: str) -> str:
    known = [
        *catalog.architectures,
        *(item.qualified_name for items in catalog.candidates.values() for item in items),
    ]
    nearest = difflib.get_close_matches(name, known, n=1)
    if nearest:
        return f" Did you mean {nearest[0]}?"
    return " `mszoo list` shows what is provided."
