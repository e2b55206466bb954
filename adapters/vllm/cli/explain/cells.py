"""What ``mszoo explain --layers`` says of the cells that adapters replace inside the suites' own models."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from rich.console import Console

from mszoo.registry.cli.report import table

_SHOWN = 4


def print_cells(
    out: Console, report: Sequence[dict[str, Any]], served_by: Collection[str], families: Collection[str]
) -> None:
    """Print the cells of layers_json, those with one replacement together.

    Args:
        out: where to.
        report: what layers_json returned; entries of vLLM's layers are left out.
        served_by: the suites whose models serve; none if vLLM's own does.
        families: the ``model_type`` of the models asked about, whose cells are named first.
    """
    for suite in sorted({item["suite"] for item in report if item["suite"] is not None}):
        cells = [item for item in report if item["suite"] == suite]
        if suite not in served_by:
            who = " and ".join(sorted(served_by)) or "vLLM's own model"
            out.print(f"\nCells of {suite}: {_count(cells)} not in effect, {who} serves", style="bold")
            continue
        out.print(f"\nCells of {suite}, replaced where its model has them", style="bold")
        rows = table("Code", "From", "Cells and reason")
        for (code, source, reason, others), items in _groups(cells).items():
            targets = [item["replaces"] for item in items]
            own = [target for target in targets if _is_of(target, families)]
            rows.add_row(code or "its own", source, "\n".join([*_named(targets, own), reason, *others]))
        out.print(rows)


def _groups(cells: Sequence[dict[str, Any]]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for item in cells:
        others = tuple(f"not {it['name']} ({it['code']}): {it['reason']}" for it in item["others"])
        found.setdefault((item["code"], item["from"], item["reason"], others), []).append(item)
    return found


def _is_of(target: str, families: Collection[str]) -> bool:
    """Say whether a cell's module is one of a family: transformers names its folders so, and suites follow it."""
    return not set(target.partition(":")[0].split(".")).isdisjoint(families)


def _named(targets: list[str], own: list[str]) -> list[str]:
    """Name the family's cells, or all where there are few; the others are counted."""
    if len(targets) <= _SHOWN:
        return targets
    shown = own or targets[:_SHOWN]
    rest = len(targets) - len(shown)
    more = f"and {rest} {'other ' if own else ''}classes of cells; --json names them"
    return [*shown, more] if rest else shown


def _count(cells: Sequence[dict[str, Any]]) -> str:
    return (
        "the replacement of one class is" if len(cells) == 1 else f"replacements of {len(cells)} classes are"
    )
