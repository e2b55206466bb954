"""What ``mszoo bench`` makes of its runs: ratios, the table and the JSON."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mszoo.adapters.vllm.cli.bench.agreement import Agreement, compare
from mszoo.adapters.vllm.cli.bench.job import MINDSPORE, VLLM, BenchError, Outputs, Result, Workload
from mszoo.adapters.vllm.cli.bench.runs import TITLES, Plan
from mszoo.registry.catalog import Catalog
from mszoo.registry.cli.report import heading, table

_SAME = 0.005  # ratios that the table shows as 1.00
_STYLES = {"better": "green", "worse": "red", "same": ""}


@dataclass(frozen=True)
class Row:
    """One figure of both sides, by run.

    Args:
        name: what was measured.
        unit: of the figures.
        higher_is_better: what counts as better.
        mindspore, vllm: the figures; those of the same place were measured next to each other.
    """

    name: str
    unit: str
    higher_is_better: bool
    mindspore: tuple[float, ...]
    vllm: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median of the ratios MindSpore to vLLM's own of the pairs of runs."""
        return statistics.median(a / b for a, b in zip(self.mindspore, self.vllm, strict=True))

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``same``, of MindSpore."""
        if abs(self.ratio - 1) < _SAME:
            return "same"
        return "better" if (self.ratio > 1) == self.higher_is_better else "worse"


def rows(results: dict[str, list[Result]], workload: Workload) -> list[Row]:
    """Return the figures.

    Raises:
        BenchError: a side has no run, or the sides have different numbers of runs.
    """
    count = len(results[MINDSPORE])
    if count == 0 or count != len(results[VLLM]):
        what = (
            f"{count} runs of MindSpore and {len(results[VLLM])} of vLLM's own model are too few to compare"
        )
        raise BenchError("bench", what, "Run each side once or more with --runs")

    def row(
        name: str, unit: str, figure: Any, higher_is_better: bool = False, runs: Any = slice(None)
    ) -> Row:
        values = {side: tuple(figure(result) for result in results[side][runs]) for side in results}
        return Row(name, unit, higher_is_better, values[MINDSPORE], values[VLLM])

    pools = bool(workload.task)
    many = f"texts of {workload.prompt} tokens, " if pools else "decode, "
    one, first = ("one text", "first answer") if pools else ("prefill", "first token")
    counted = workload.prompt if pools else workload.new - 1
    timed = row(f"{one}, {workload.prefill} tokens", "tokens/s", lambda r: workload.prefill / r.prefill, True)
    if workload.images:  # how many tokens they are is the processor's
        shown = f"{workload.images} image{'s' * (workload.images > 1)} of {workload.image_size} pixels a side"
        name = f"prefill, {shown} and {workload.prefill} tokens"
        timed = row(name, "ms", lambda result: result.prefill * 1000)
    found = [
        row(
            f"{many}batch {batch}",
            "tokens/s",
            lambda result, index=index, batch=batch: batch * counted / result.decode[index],
            higher_is_better=True,
        )
        for index, batch in enumerate(workload.batches)
    ]
    found += [
        timed,
        row(f"time to {first}", "ms", lambda result: result.first_token * 1000),
        row(f"start to {first}, cold cache", "s", lambda result: result.start, runs=slice(1)),
    ]
    if count > 1:
        found.append(
            row(f"start to {first}, warm cache", "s", lambda result: result.start, runs=slice(1, None))
        )
    return [*found, row("peak RSS", "MiB", lambda result: result.peak_rss)]


def machine() -> dict[str, Any]:
    """Return the ``cpu`` model, the ``cores`` that we may use, and the ``load`` average of the last minute.

    Ask before the first run: the load then is that of others, who slow down whichever side is running.
    """
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": named[0] if named else model,
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
    }


def bench_json(
    catalog: Catalog,
    here: dict[str, Any],
    plan: Plan,
    results: dict[str, list[Result]],
    reference: Outputs | None = None,
) -> dict[str, Any]:
    """Return the report that ``mszoo bench --json`` prints.

    Keys: ``mszoo`` (version), ``device``, ``digest``, ``disabled`` (plugin names), ``lock`` (as in
    ``mszoo list --json``), ``versions`` (by distribution), ``machine`` (``cpu``, ``cores``, and ``load``, the load
    average before the first run), ``folder``, ``dtype``, ``mode`` (``eager`` or ``compiled``, vLLM's default),
    ``runs`` (of each side), ``repeats``, ``prompt``, ``new``, ``task`` (vLLM's pooling task, empty where text is
    generated), ``kernels`` (as asked for, or null), ``speculative_config`` (as given, or empty),
    ``answered``, ``outputs``, ``rows``.
    ``answered`` has ``mindspore`` (``adapter``, ``model``, ``kernels`` by op, ``digest``, ``forwards``,
    ``classes``) and ``vllm`` (``classes``, of which the first is the model's own), as the last run saw them; both
    have ``draft`` (the adapter or the class that proposed tokens, or null) and ``accepted`` (the share of these
    that were, or null).
    ``outputs`` has ``prompts``, ``same_answers``, ``near_ties`` (each with ``prompt``, ``token``, ``gap``),
    ``max_difference`` and ``mean_difference`` of log-probabilities and what they were ``compared`` with, of the
    pair of runs that differs most.
    A row has ``name``, ``unit``, ``better`` (``higher`` or ``lower``), ``ratio`` (median of the pairs' ratios,
    MindSpore to vLLM's own), ``verdict`` (``better``, ``worse`` or ``same``), and for each of ``mindspore`` and
    ``vllm`` the ``median``, ``min``, ``max`` and ``runs``.
    """
    workload, last = plan.workload, {side: results[side][-1] for side in results}
    agreement = _least_agreement(results, reference)
    ours, theirs = last[MINDSPORE].answerer, last[VLLM].answerer
    return {
        **heading(catalog),
        "versions": last[MINDSPORE].versions,
        "machine": here,
        "folder": workload.model,
        "dtype": last[MINDSPORE].dtype,
        "mode": "eager" if workload.eager else "compiled",
        "runs": plan.runs,
        "repeats": workload.repeats,
        "prompt": workload.prompt,
        "new": workload.new,
        "task": workload.task,
        "kernels": plan.kernels,
        "speculative_config": workload.speculative_config,
        "answered": {
            MINDSPORE: {
                "adapter": ours.adapter,
                "model": ours.model,
                "kernels": ours.kernels,
                "digest": ours.digest,
                "forwards": ours.forwards,
                "classes": list(ours.classes),
                **_speculation(last[MINDSPORE]),
            },
            VLLM: {"classes": list(theirs.classes), **_speculation(last[VLLM])},
        },
        "outputs": {
            "prompts": agreement.answers[0],
            "same_answers": agreement.answers[1],
            "near_ties": [
                {"prompt": prompt, "token": token, "gap": gap} for prompt, token, gap in agreement.near_ties
            ],
            "max_difference": agreement.maximum,
            "mean_difference": agreement.mean,
            "compared": agreement.against,
        },
        "rows": [_row_json(row) for row in rows(results, workload)],
    }


def print_report(
    out: Console,
    here: dict[str, Any],
    plan: Plan,
    results: dict[str, list[Result]],
    reference: Outputs | None = None,
) -> None:
    """Print what was compared, who answered, and the table."""
    workload, last = plan.workload, results[MINDSPORE][-1]
    ours, theirs = last.answerer, results[VLLM][-1].answerer
    mode = "eager" if workload.eager else "vLLM's default (compiled)"
    sets: dict[str, list[str]] = {}
    for op, kernel_set in (ours.kernels or {}).items():
        sets.setdefault(kernel_set, []).append(op)
    kernels = ", ".join(f"{kernel_set} ({len(ops)} ops)" for kernel_set, ops in sets.items())
    facts = {
        "Model": f"{workload.model}, {last.dtype}, mode: {mode}",
        "Machine": f"{here['cpu']}, {here['cores']} cores, load average {here['load']} at the start",
        "Versions": ", ".join(f"{name} {version}" for name, version in last.versions.items()),
        TITLES[MINDSPORE]: f"{ours.adapter} ({ours.model}), kernel set {kernels}, {ours.forwards} forwards, "
        f"decisions {ours.digest}",
        TITLES[VLLM]: theirs.classes[0],
        **(
            {"Proposals": "; ".join(_proposals(side, results[side][-1]) for side in (MINDSPORE, VLLM))}
            if workload.speculative_config
            else {}
        ),
        "Outputs": str(_least_agreement(results, reference)),
    }
    described = Table.grid(padding=(0, 2))
    for name, text in facts.items():
        described.add_row(name, text)
    out.print(described)
    figures = table("Measurement", "Unit", TITLES[MINDSPORE], TITLES[VLLM], "Ratio", "")
    for column in figures.columns[2:5]:
        column.justify = "right"
    for row in rows(results, workload):
        verdict = row.verdict
        figures.add_row(
            row.name,
            row.unit,
            _cell(row.mindspore),
            _cell(row.vllm),
            f"{row.ratio:.2f}",
            verdict,
            style=_STYLES[verdict],
        )
    out.print()
    out.print(figures)
    runs = (
        "1 run of each side."
        if plan.runs == 1
        else f"{plan.runs} runs of each side in turn: median, smallest to largest; ratio: median of the pairs."
    )
    out.print(
        f"\n{runs} Ratios are MindSpore to vLLM's own: more tokens/s are better, and less time and memory."
    )


def _least_agreement(results: dict[str, list[Result]], reference: Outputs | None) -> Agreement:
    found = [compare(*pair, reference) for pair in zip(results[MINDSPORE], results[VLLM], strict=True)]
    return max(found, key=lambda agreement: (-agreement.answers[1], agreement.maximum))


def _speculation(result: Result) -> dict[str, Any]:
    return {"draft": result.draft, "accepted": result.accepted}


def _proposals(side: str, result: Result) -> str:
    share = "none" if result.accepted is None else f"{result.accepted:.1%}"
    return f"{TITLES[side]}: {share} accepted, by {result.draft or 'no model'}"


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "unit": row.unit,
        "better": "higher" if row.higher_is_better else "lower",
        "ratio": row.ratio,
        "verdict": row.verdict,
        **{
            side: {
                "median": statistics.median(values),
                "min": min(values),
                "max": max(values),
                "runs": list(values),
            }
            for side, values in ((MINDSPORE, row.mindspore), (VLLM, row.vllm))
        },
    }


def _cell(values: tuple[float, ...]) -> str:
    median = _number(statistics.median(values))
    if len(values) == 1:
        return median
    return f"{median}\n{_number(min(values))} to {_number(max(values))}"


def _number(value: float) -> str:
    """Show about three digits, and all those of a whole number."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"
