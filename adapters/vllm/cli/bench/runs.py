"""Runs the processes of ``mszoo bench``: fresh ones, the two sides in turn, stopped when the user stops us."""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mszoo.adapters.vllm.cli.bench.job import MINDSPORE, VLLM, BenchError, Job, Outputs, Result, Workload
from mszoo.adapters.vllm.cli.process import ProcessGroup, last_lines

#: What people call the two sides.
TITLES = {MINDSPORE: "MindSpore", VLLM: "vLLM's own"}
_SHOWN_LINES = 15
_POLL = 0.05
_PATIENCE = (5.0, 2.0)  # seconds; nothing that a run does outlives it
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Plan:
    """The whole benchmark.

    Args:
        workload: what every run measures.
        runs: of each side.
        kernels: ``MSZOO_KERNELS`` of the MindSpore side, None for what the environment says.
        logs: folder for the log and the result of each run.
    """

    workload: Workload
    runs: int
    kernels: str | None
    logs: Path


def order(runs: int) -> list[str]:
    """Return the sides in turn, the first of each pair alternating: a drift of the machine hits both alike."""
    pair = (MINDSPORE, VLLM)
    return [side for number in range(runs) for side in (pair if number % 2 == 0 else pair[::-1])]


def environment(side: str, kernels: str | None, cache: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a side's runs.

    Args:
        side: whose model serves.
        kernels: ``MSZOO_KERNELS`` of the MindSpore side, None for what `environ` says.
        cache: folder for vLLM's caches. Each side has its own part, empty at its first run.
        environ: our environment.
    """
    own = cache / side
    result = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",  # the model is a folder; no start waits for a network
        **environ,
        # In one process: its peak memory is all of the engine's, and it can ask the model who it is.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CACHE_ROOT": str(own / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(own / "inductor"),
    }
    if side == VLLM:
        result["MSZOO_DISABLE"] = "1"
    elif kernels is not None:
        result["MSZOO_KERNELS"] = kernels
    return result


def rehearse(plan: Plan, environ: Mapping[str, str]) -> None:
    """Import both frameworks and read the weights once, or the first run alone would pay for a cold disk.

    Raises:
        BenchError: one of the frameworks can't be imported.
    """
    log = plan.logs / "imports.log"
    command = [
        sys.executable,
        "-c",
        "import torch; from mszoo.adapters.vllm.seam import LLM; import mindspore",
    ]
    status = _finish(command, log, environ)
    if status:
        hint = f"Install mszoo[cpu]; the log is {log}"
        raise BenchError("bench", "vLLM or MindSpore can't be imported", hint, _end_of(log))
    for path in sorted(Path(plan.workload.model).glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.read(_CHUNK):
                pass


def measure(
    plan: Plan,
    environ: Mapping[str, str],
    begin: Callable[[int, str], None],
    check: Callable[[Result, Result, Outputs | None], None],
) -> tuple[dict[str, list[Result]], Outputs | None]:
    """Run both sides in turn, each run in a fresh process.

    Args:
        plan: what to run.
        environ: our environment.
        begin: called before each run with its number, from 0, and its side.
        check: called after each pair with MindSpore's and vLLM's own result and the reference; raises if they
            can't be compared.

    Returns:
        Results by side, in the order of the runs; and the reference: what vLLM's own model says in float32, None
        if the sides computed in float32.

    Raises:
        BenchError: a run failed, or `check` raised it.
    """
    results: dict[str, list[Result]] = {MINDSPORE: [], VLLM: []}
    reference = None
    with tempfile.TemporaryDirectory(prefix="mszoo-bench-", ignore_cleanup_errors=True) as directory:
        scratch = Path(directory)
        for number, side in enumerate(order(plan.runs)):
            begin(number, side)
            log = plan.logs / f"{number + 1:02}-{side}.log"
            process_environment = environment(side, plan.kernels, scratch / "cache", environ)
            results[side].append(run_once(plan.workload, side, process_environment, scratch, log))
            if number % 2:
                pair = results[MINDSPORE][-1], results[VLLM][-1]
                if reference is None and pair[1].dtype != "float32":
                    reference = run_reference(plan, environ, scratch)
                check(*pair, reference)
    return results, reference


def run_once(workload: Workload, side: str, environ: Mapping[str, str], scratch: Path, log: Path) -> Result:
    """Run one side once.

    Args:
        workload: what to measure.
        side: who must answer.
        environ: environment of the process; see :func:`environment`.
        scratch: existing folder for the job.
        log: file for what the process prints; its result goes beside it, as JSON.

    Raises:
        BenchError: the process failed, or another model answered.
    """
    return Result.from_json(_run(workload, side, True, environ, scratch, log))


def run_reference(plan: Plan, environ: Mapping[str, str], scratch: Path) -> Outputs:
    """Ask vLLM's own model in float32: what both sides would say if they didn't round.

    Raises:
        BenchError: the process failed.
    """
    workload = dataclasses.replace(plan.workload, dtype="float32", eager=True)
    process_environment = environment(VLLM, None, scratch / "cache", environ)
    fields = _run(workload, VLLM, False, process_environment, scratch, plan.logs / "reference.log")
    return Outputs(**fields)


def _run(
    workload: Workload, side: str, timed: bool, environ: Mapping[str, str], scratch: Path, log: Path
) -> dict[str, Any]:
    """Run a job in a fresh process and return what it wrote."""
    job, result = scratch / "job.json", log.with_suffix(".json")
    result.unlink(missing_ok=True)
    content = dataclasses.asdict(Job(side, workload, time.time(), str(result.absolute()), timed))
    job.write_text(json.dumps(content), encoding="utf-8")
    command = [sys.executable, "-m", "mszoo.adapters.vllm.cli.bench.worker", str(job)]
    status = _finish(command, log, environ)
    if status or not result.is_file():
        who, what = f"bench, {TITLES[side]}", f"the run ended with status {status} and without a result"
        raise BenchError(who, what, f"See its log: {log}", _end_of(log))
    fields: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    if "error" in fields:
        who, what, hint = fields["error"]
        raise BenchError(who, what, f"{hint}. Log: {log}")
    return fields


def _finish(command: list[str], log: Path, environ: Mapping[str, str]) -> int:
    """Run a command to its end and return its status; whatever it started is stopped in any case."""
    with ProcessGroup(command, log, environ, _PATIENCE) as group:
        while (status := group.exit_status()) is None:
            time.sleep(_POLL)
    return status


def _end_of(log: Path) -> tuple[str, ...]:
    return tuple(last_lines(log, _SHOWN_LINES))
