"""Prints what ``mszoo list`` shows, so that it can be read in a terminal of 80 columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from mszoo.registry.catalog import Catalog
from mszoo.registry.cli.list.choice import Choice
from mszoo.registry.cli.report import console, grouped, print_footing, print_problems, style_of, table
from mszoo.registry.decisions import Decision, Verdict
from mszoo.registry.discovery import Contribution
from mszoo.registry.errors import Problem

_LONGEST = 40  # characters of a name that has a line of its own in 80 columns
_NAMED = 3  # targets of one replacement


def print_list(catalog: Catalog, choice: Choice | None, missing: Sequence[Problem]) -> None:
    """Print the suites in short, or the rows of what was asked for.

    Args:
        catalog: the decisions.
        choice: what was asked for; None for the suites.
        missing: problems of records whose code isn't there.
    """
    out = console()
    if choice is None:
        _print_suites(out, catalog)
    elif choice.named:
        _print_named(out, catalog, choice)
    else:
        for item in catalog.discovery.contributions:
            if item.suite.name == choice.suite:
                _print_suite(out, catalog, item)
    print_footing(out, catalog)
    if missing:
        out.print(f"\nNot there ({len(missing)}):", style="bold red")
    for problem in missing:
        out.print(f"- {problem}")
    print_problems(out, catalog.problems)


def _print_suites(out: Console, catalog: Catalog) -> None:
    """Print two lines for each suite: what it is, and how much it registers."""
    verdicts = _verdicts(catalog.decisions().values())
    for item in catalog.discovery.contributions:
        name, obstacle = item.suite.name, catalog.suite_obstacle(item.suite)
        about = f"{name}: {item.suite.description}" if item.suite.description else name
        out.print(f"{about} ({item.plugin.source})", style="bold")
        out.print(f"  {_counts([verdict for verdict in verdicts if _is_of(verdict, name)], item)}")
        if obstacle is not None:
            out.print(f"  none can be used: {obstacle}")
    if catalog.discovery.contributions:
        out.print("\nWhat one registers: mszoo list SUITE. Who serves, and why: mszoo explain ARCH")


def _counts(own: Sequence[Verdict], item: Contribution) -> str:
    """Say how much a suite registers: "134 models (53 fallback, 81 refused), 188 layers, 0 ops"."""
    how = Counter("refused" if it.candidate.adapter.refused else it.status for it in own)
    parts = [f"{how[word]} {word}" for word in ("won", "fallback", "unavailable", "refused") if how[word]]
    models = _number(len({model.architecture for model in item.models}), "model")
    models += f" ({', '.join(parts)})" if parts else ""
    return f"{models}, {_number(len(item.layers), 'layer')}, {_number(len(item.ops), 'op')}"


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _print_suite(out: Console, catalog: Catalog, item: Contribution) -> None:
    name, obstacle = item.suite.name, catalog.suite_obstacle(item.suite)
    out.print(f"{name}, {item.plugin.source}: {item.suite.description}", style="bold")
    own = [verdict for verdict in _verdicts(catalog.decisions().values()) if _is_of(verdict, name)]
    if obstacle is not None:
        out.print(f"{name} {obstacle}")
        models = sorted({verdict.candidate.adapter.architecture for verdict in own})
        out.print(f"Its models: {', '.join(models) or 'none'}")
        return
    shown = [verdict for verdict in own if not verdict.candidate.adapter.refused]
    if shown:
        rows = _table([verdict.candidate.adapter.architecture for verdict in shown], "Architecture")
        for verdict in shown:
            subject = verdict.candidate.adapter.architecture
            rows.add_row(subject, verdict.status, verdict.reason, style=style_of(verdict))
        out.print(rows)
    _print_refused(out, own)
    layers = [it for it in _verdicts(catalog.layer_decisions().values()) if _is_of(it, name)]
    _print_layers(out, layers)
    _print_ops(out, [it for it in _verdicts(catalog.op_decisions().values()) if _is_of(it, name)])


def _print_named(out: Console, catalog: Catalog, choice: Choice) -> None:
    """Print the rows of all suites, or of one, for the names that were asked for."""
    for decisions in (catalog.decisions(), catalog.layer_decisions(), catalog.op_decisions()):
        for name in choice.named:
            decision = decisions.get(name)
            if decision is None:
                continue
            rows = table("Suite", "From", "Verdict", "Code and reason")
            for verdict in decision.verdicts:
                if choice.suite is None or _is_of(verdict, choice.suite):
                    candidate = verdict.candidate
                    text = f"{candidate.adapter.implementation}\n{verdict.reason}"
                    source = (candidate.suite.name, candidate.plugin.source)
                    rows.add_row(*source, verdict.status, text, style=style_of(verdict))
            out.print(name, style="bold")
            out.print(rows)


def _verdicts(decisions: Iterable[Decision]) -> list[Verdict]:
    return [verdict for decision in decisions for verdict in decision.verdicts]


def _is_of(verdict: Verdict, suite: str) -> bool:
    return verdict.candidate.suite.name == suite


def _table(subjects: Sequence[str], first: str) -> Table:
    """Return a table whose names stay whole, unless one leaves no room for the rest."""
    rows = table(first, "Verdict", "Reason")
    rows.columns[0].no_wrap = max(map(len, subjects), default=0) <= _LONGEST
    return rows


def _print_refused(out: Console, own: Sequence[Verdict]) -> None:
    """Print what a suite has and can't have served, by reason."""
    refused = [item.candidate.adapter for item in own if item.candidate.adapter.refused]
    if refused:
        out.print(f"\nIn the suite, and can't be served ({len(refused)}):", style="bold")
    for names, why in grouped((item.architecture, item.refused) for item in refused):
        out.print(f"- {why}: {names}")


def _print_layers(out: Console, own: Sequence[Verdict]) -> None:
    """Print layers by what replaces them: a suite has dozens that one class does."""
    if not own:
        return
    found: dict[tuple[str, str, str], list[str]] = {}
    for verdict in own:
        key = (verdict.candidate.adapter.implementation, verdict.status, verdict.reason)
        found.setdefault(key, []).append(verdict.candidate.adapter.target)
    rows = table("Layers", "Verdict", "Code, reason, and what it replaces")
    for (code, status, reason), targets in found.items():
        more = len(targets) - _NAMED
        shown = [*targets[:_NAMED], *([f"and {more} more; --json names them"] if more > 0 else [])]
        rows.add_row(str(len(targets)), status, "\n".join([code, reason, *shown]), end_section=True)
    out.print()
    out.print(rows)


def _print_ops(out: Console, own: Sequence[Verdict]) -> None:
    if not own:
        return
    rows = table("Op", "Set", "Verdict", "Code and reason")
    for verdict in own:
        adapter = verdict.candidate.adapter
        rows.add_row(
            adapter.op, adapter.kernel_set, verdict.status, f"{adapter.implementation}\n{verdict.reason}"
        )
    out.print()
    out.print(rows)
