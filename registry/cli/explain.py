"""``mszoo explain``: who serves one architecture or the model in a folder, and why."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mszoo.registry.catalog import Catalog, Decision, load_catalog
from mszoo.registry.errors import MszooError

from .report import (
    DeviceOption,
    JsonOption,
    chosen_device,
    console,
    decision_json,
    heading,
    print_json,
    print_problems,
    problems_json,
    style_of,
    table,
)

_ARCHITECTURE = re.compile(r"([A-Za-z_][\w-]*\.)?[A-Za-z_]\w*")


def explain(
    target: Annotated[
        str,
        typer.Argument(
            metavar="ARCH|DIR",
            help="An architecture, plain (LlamaForCausalLM) or of one suite (native.LlamaForCausalLM), "
            "or a model folder.",
        ),
    ],
    as_json: JsonOption = False,
    device: DeviceOption = None,
) -> None:
    """Explain which adapter serves an architecture or a model folder.

    Exits with 1 if no MindSpore model serves it, or if a plugin or setting has a problem.
    """
    catalog = load_catalog(device=chosen_device(device))
    names, folder = _resolve(target, catalog)
    decisions = [catalog.decide(name) for name in names]
    if as_json:
        print_json(explain_json(catalog, decisions, folder))
    else:
        _print(catalog, decisions, folder)
    served = any(decision.winner for decision in decisions)
    raise typer.Exit(0 if served and not catalog.problems else 1)


def explain_json(catalog: Catalog, decisions: list[Decision], folder: Path | None) -> dict[str, Any]:
    """Return the report that ``mszoo explain --json`` prints.

    Keys: ``mszoo`` (version), ``device``, ``digest``, ``disabled`` (plugin names), ``folder`` (null for an
    architecture), ``architectures``, ``problems``; the last two hold what they hold in ``mszoo list --json``.
    An architecture that nobody provides has no candidates. vLLM serves the first one that it knows.
    """
    return {
        **heading(catalog),
        "folder": str(folder) if folder else None,
        "architectures": [decision_json(decision) for decision in decisions],
        "problems": problems_json(catalog.problems),
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


def _print(catalog: Catalog, decisions: list[Decision], folder: Path | None) -> None:
    out = console()
    if folder is not None:
        out.print(f"{folder}: {', '.join(decision.architecture for decision in decisions)}\n")
    for decision in decisions:
        _print_decision(out, catalog, decision)
    out.print(f"\nDevice {catalog.device}, decisions {catalog.digest()}")
    print_problems(out, catalog.problems)


def _print_decision(out: Console, catalog: Catalog, decision: Decision) -> None:
    winner = decision.winner.qualified_name if decision.winner else "vLLM's own model, if it has one"
    out.print(f"{decision.architecture} is served by {winner}", style="bold")
    if not decision.verdicts:
        out.print(f"No suite provides {decision.architecture}.{_nearest(catalog, decision.architecture)}")
        return
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
    out.print(rows)


def _nearest(catalog: Catalog, name: str) -> str:
    known = [
        *catalog.architectures,
        *(item.qualified_name for items in catalog.candidates.values() for item in items),
    ]
    nearest = difflib.get_close_matches(name, known, n=1)
    if nearest:
        return f" Did you mean {nearest[0]}?"
    return " `mszoo list` shows what is provided."
