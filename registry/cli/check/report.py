"""What ``mszoo check`` reports: JSON, a table, and a Markdown matrix that documents can hold."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mszoo.registry.ascend.machine import Machine, read_machine
from mszoo.registry.catalog import Catalog
from mszoo.registry.cli.check.anonymous import anonymous
from mszoo.registry.cli.check.run import TIERS, Result, Subject, versions
from mszoo.registry.cli.report import console, grouped, heading, print_problems, problems_json, table
from mszoo.registry.errors import MszooError, Problem
from mszoo.registry.files import write_whole

BEGIN, END = "<!-- mszoo check: begin -->", "<!-- mszoo check: end -->"
_BAD = ("failed", "error")
_WORDS = {
    "failed": "failed",
    "passed": "passed",
    "xfailed": "expected to fail",
    "xpassed": "passed unexpectedly",
    "skipped": "skipped",
}
_STYLES = {"passed": "green", "failed": "red", "skipped": "dim", "not run": "dim"}


def check_json(
    catalog: Catalog, subjects: Sequence[Subject], results: Sequence[Result], tier: str
) -> dict[str, Any]:
    """Return the report that ``mszoo check --json`` prints.

    Keys: ``mszoo`` (version), ``device``, ``digest``, ``disabled`` (plugin names), ``lock`` (as in
    ``mszoo list --json``), ``tier`` (the last one that ran), ``versions`` (of python, vllm, mindspore, torch,
    transformers and vllm-ascend; null if not installed), ``machine`` (what a machine with NPUs is, in words; null
    on cpu), ``adapters``, ``problems`` (as in ``mszoo list --json``).
    An adapter has ``adapter`` (qualified name), ``kind`` (``device``, ``suite``, ``model``, ``encoder``, ``head``,
    ``multimodal``, ``layer``, ``op``), ``suite``, ``source`` (distribution and version), ``code`` (what its
    record names, as ``module:object``; null for a suite or device), ``refused`` (why its suite can't have it
    served, and nothing is run; else null), ``dtypes`` and ``capabilities`` (what its record declares),
    ``leave_out`` (of these dtypes, those in which alone a test fails: the record shouldn't name them), ``tiers``
    (a status each: ``passed``, ``failed``, ``skipped`` or
    ``not run``) and ``tests``: each with ``tier``, ``test``, ``outcome`` (``passed``, ``failed``, ``error``,
    ``skipped``, ``xfailed``, ``xpassed``), ``reason`` (null where there is none), ``seconds`` and ``measured`` (in
    words; empty where it measures nothing).
    """
    adapters = []
    for subject in subjects:
        tests = [item for item in results if (item.kind, item.adapter) == (subject.kind, subject.name)]
        adapters.append(
            {
                "adapter": subject.name,
                "kind": subject.kind,
                "suite": subject.suite,
                "source": subject.source,
                "code": subject.code or None,
                "refused": subject.refused or None,
                "dtypes": list(subject.dtypes),
                "capabilities": list(subject.capabilities),
                "leave_out": _dtypes_to_leave_out(subject.dtypes, tests),
                "tiers": {name: _status([item for item in tests if item.tier == name]) for name in TIERS},
                "tests": [
                    {key: value for key, value in asdict(item).items() if key not in ("adapter", "kind")}
                    for item in tests
                ],
            }
        )
    return {
        **heading(catalog),
        "tier": tier,
        "versions": versions(),
        "machine": _said(read_machine()) if catalog.device == "npu" else None,
        "adapters": adapters,
        "problems": problems_json(catalog.problems),
    }


def _dtypes_to_leave_out(declared: Sequence[str], tests: Sequence[Result]) -> list[str]:
    """Return the dtypes in which a test fails that passes in another one."""
    outcomes: dict[str, dict[str, set[str]]] = {}
    for item in tests:
        name, _, parameters = item.test.rstrip("]").partition("[")
        for dtype in {*parameters.split("-")} & {*declared}:
            outcomes.setdefault(name, {}).setdefault(dtype, set()).add(item.outcome)
    bad = {
        dtype
        for of_test in outcomes.values()
        if any(found == {"passed"} for found in of_test.values())
        for dtype, found in of_test.items()
        if found & {*_BAD}
    }
    return [dtype for dtype in declared if dtype in bad]


def _leave_out(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return by adapter what its record should name, where a dtype fails that others don't."""
    found = []
    for item in document["adapters"]:
        if item["leave_out"]:
            kept = ", ".join(repr(dtype) for dtype in item["dtypes"] if dtype not in item["leave_out"])
            what = (
                f"fails in {' and '.join(item['leave_out'])} alone: mend it there, or declare dtypes=[{kept}]"
            )
            found.append((item["adapter"], what))
    return found


def good(document: Mapping[str, Any]) -> bool:
    """Return whether no test failed and no plugin has a problem."""
    failed = any("failed" in item["tiers"].values() for item in document["adapters"])
    return not failed and not document["problems"]


def print_report(document: Mapping[str, Any], problems: tuple[Problem, ...]) -> None:
    """Print a table of adapters and tiers, then what failed and what is expected to fail, with reasons."""
    out = console()
    rows = table("Adapter", "Kind", "From", *TIERS)
    for item in _rows(document["adapters"]):
        worst = "failed" if "failed" in item["tiers"].values() else ""
        cells = [_cell(item, tier) for tier in TIERS]
        rows.add_row(item["adapter"], item["kind"], item["source"], *cells, style=_STYLES.get(worst, ""))
    out.print(rows)
    refused = [item for item in document["adapters"] if item["refused"]]
    if refused:
        out.print(f"\nRefused ({len(refused)}):", style="bold")
    for names, reason in grouped((item["adapter"], item["refused"]) for item in refused):
        out.print(f"- {names}: {reason}")
    for title, outcomes in (
        ("Failed", _BAD),
        ("Expected to fail", ("xfailed",)),
        ("Expected to fail, and passed", ("xpassed",)),
    ):
        found = _tests(document, outcomes)
        if found:
            out.print(f"\n{title} ({len(found)}):", style="bold red" if outcomes == _BAD else "bold")
        said = ((name, f"{test['tier']}, {test['test']}: {test['reason']}") for name, test in found)
        for names, what in grouped(said):
            out.print(f"- {names}, {what}")
    leave_out = _leave_out(document)
    if leave_out:
        out.print("\nDtypes to leave out:", style="bold")
    for names, what in grouped(leave_out):
        out.print(f"- {names} {what}")
    for adapter, test in _measured(document):
        out.print(f"\nMeasured, {adapter}, {test['test']}: {test['measured']}")
    used = ", ".join(f"{name} {version}" for name, version in document["versions"].items() if version)
    out.print(f"\nmszoo {document['mszoo']} on {document['device']}, decisions {document['digest']}; {used}")
    print_problems(out, problems)


def markdown(document: Mapping[str, Any]) -> str:
    """Return the matrix as Markdown, between the markers that write_markdown looks for."""
    used = ", ".join(f"{name} {version}" for name, version in document["versions"].items() if version)
    lines = [
        BEGIN,
        f"Tested with mszoo {document['mszoo']} on {document['device']}: {used}.",
        *([f"The machine: {document['machine']}."] if document["machine"] else []),
        "",
        f"| adapter | kind | version | {' | '.join(TIERS)} |",
        f"|---|---|---|{'---|' * len(TIERS)}",
    ]
    lines += [
        f"| `{item['adapter']}` | {item['kind']} | {item['source']} | "
        + " | ".join(_cell(item, tier) for tier in TIERS)
        + " |"
        for item in _rows(document["adapters"])
    ]
    refused = [item for item in document["adapters"] if item["refused"]]
    if refused:
        lines += ["", "Refused: the suite has the model, and it can't be served:", ""]
    reasons = grouped(((item["adapter"], item["refused"]) for item in refused), "`, `")
    lines += [f"- `{names}`: {reason}" for names, reason in reasons]
    for title, outcomes in (("Failed", _BAD), ("Expected to fail", ("xfailed",))):
        found = _tests(document, outcomes)
        if found:
            lines += ["", f"{title}:", ""]
        said = []
        for adapter, test in found:
            reason = textwrap.shorten(str(test["reason"]), 300, placeholder=" ...")
            said.append((adapter, f"{test['tier']} `{test['test']}`: {reason}"))
        lines += [f"- `{names}` {what}" for names, what in grouped(said, "`, `")]
    measured = _measured(document)
    if measured:
        lines += ["", "Measured:", ""]
    lines += [f"- `{adapter}` `{test['test']}`: {test['measured']}" for adapter, test in measured]
    return "\n".join([*lines, END])


def read_page(path: Path) -> tuple[str, str]:
    """Return what a page holds before and after the matrix; nothing for a page that is not there yet.

    Raises:
        MszooError: it has no marked block, or can't be read.
    """
    if not path.exists():
        return "", ""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise MszooError(str(path), f"can't be read ({error})", "Name another file.") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        hint = f"Add the lines {BEGIN} and {END} where the matrix goes, or name a new file."
        raise MszooError(str(path), "exists and has no marked block", hint)
    return before, after


def write_markdown(document: Mapping[str, Any], path: Path) -> None:
    """Write the matrix into a new file, or in place of the marked block of a file that has one.

    It can be sent to others: secrets, host names and folders of the user are taken out.

    Raises:
        MszooError: as read_page, or the file can't be written.
    """
    before, after = read_page(path)
    write_whole(path, before + anonymous(markdown(document)) + (after or "\n"))


def _rows(adapters: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Put layers that one class replaces into one row: a suite has dozens of norms that are the same.

    Refused models have no row.
    """
    found: dict[object, list[Mapping[str, Any]]] = {}
    for item in adapters:
        if item["refused"]:
            continue
        alike = item["kind"] == "layer"
        found.setdefault((item["suite"], item["code"]) if alike else item["adapter"], []).append(item)
    rows = []
    for items in found.values():
        row = dict(items[0])
        if len(items) > 1:
            row["adapter"] = f"{row['suite']}.{row['code']} for {len(items)} layers"
            row["tests"] = [test for item in items for test in item["tests"]]
            row["tiers"] = {name: _worst([item["tiers"][name] for item in items]) for name in TIERS}
        rows.append(row)
    return rows


def _worst(statuses: Sequence[str]) -> str:
    return next(item for item in ("failed", "passed", "skipped", "not run") if item in statuses)


def _status(tests: Sequence[Result]) -> str:
    outcomes = {item.outcome for item in tests}
    if outcomes & set(_BAD):
        return "failed"
    if not outcomes:
        return "not run"
    return "skipped" if outcomes == {"skipped"} else "passed"


def _cell(item: Mapping[str, Any], tier: str) -> str:
    """Say how a tier went: "10 passed, 1 expected to fail"."""
    tests = [test for test in item["tests"] if test["tier"] == tier]
    if not tests:
        return "not run"
    counts = Counter("failed" if test["outcome"] in _BAD else test["outcome"] for test in tests)
    return ", ".join(f"{counts[outcome]} {word}" for outcome, word in _WORDS.items() if counts[outcome])


def _measured(document: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [
        (item["adapter"], test) for item in document["adapters"] for test in item["tests"] if test["measured"]
    ]


def _said(machine: Machine) -> str:
    """Describe a machine with NPUs: "8 x Ascend910B3, driver 25.5.0, CANN 9.1.0, NNAL 9.1.0"."""
    chips = Counter(chip.name for chip in machine.chips)
    parts = [f"{count} x {name}" for name, count in chips.items()] or [f"{machine.npus} Ascend devices"]
    for name, version in (("driver", machine.driver), ("CANN", machine.cann), ("NNAL", machine.nnal)):
        parts.append(f"{name} {version or 'unknown'}")
    return ", ".join(parts)


def _tests(document: Mapping[str, Any], outcomes: Sequence[str]) -> list[tuple[str, Mapping[str, Any]]]:
    return [
        (item["adapter"], test)
        for item in document["adapters"]
        for test in item["tests"]
        if test["outcome"] in outcomes
    ]
