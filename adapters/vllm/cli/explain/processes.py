"""Starts vLLM's processes on a model folder and compares what each of them decided."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from mszoo.adapters.vllm.cli.process import ProcessGroup
from mszoo.registry.cli.report import table
from mszoo.registry.decisions import Candidate
from mszoo.registry.errors import MszooError
from mszoo.registry.records import Capability

# vLLM's log: (EngineCore pid=12) INFO 11-25 10:00:00 [install.py:97] mszoo 0.1.0: ..., decision 1ad0bc633703; ...
_DECIDED = re.compile(r"\((\w+) pid=(\d+)\).*\bmszoo [^:]+: .*\bdecision ([0-9a-f]{12})\b")
_ENGINE = "EngineCore"
_ERRORS = "mszoo.registry.errors."
_POLL = 0.1
_PATIENCE = (5.0, 2.0)


@dataclass(frozen=True)
class Process:
    """One process of vLLM.

    Args:
        role: ``front end``, ``engine core``, ``worker N`` or, with one worker, ``engine core and worker``.
        pid: its id.
        digest: of its decisions; None if it made none.
        adapter: the qualified name of who serves in it; None for vLLM's own model, or if it holds no model.
        model: the class of its model as ``module:Class``; None if it holds none.
    """

    role: str
    pid: int
    digest: str | None
    adapter: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class Processes:
    """All processes of one start, the number of tensor-parallel workers and why it is that number."""

    processes: tuple[Process, ...]
    workers: int
    reason: str

    @property
    def agree(self) -> bool:
        """Whether all processes reached the same decision, and all workers are served by the same model."""
        digests = {item.digest for item in self.processes}
        served = {(item.adapter, item.model) for item in self.processes if item.model is not None}
        return len(digests) == 1 and None not in digests and len(served) == 1

    @property
    def served(self) -> bool:
        """Whether a MindSpore model serves in a worker."""
        return any(item.adapter is not None for item in self.processes)


def tensor_parallel(candidate: Candidate | None, config: Mapping[str, Any]) -> tuple[int, str]:
    """Return how many workers to start, and why: two if the model can be split."""
    if candidate is None:
        return 1, "no MindSpore model serves"
    if Capability.TENSOR_PARALLEL not in candidate.adapter.capabilities:
        return 1, f"{candidate.qualified_name} doesn't declare tensor-parallel"
    heads = config.get("num_attention_heads")
    if not isinstance(heads, int) or heads % 2:
        return 1, f"{heads} attention heads can't be split in two"
    return 2, "tensor parallelism 2"


def start(folder: Path, workers: int, reason: str, **options: Any) -> Processes:
    """Start vLLM's processes on a folder, with random weights, ask each what it decided, and stop them.

    Args:
        folder: the model.
        workers: the size of tensor parallelism.
        reason: why that many.
        options: further ones of vLLM's ``LLM``.

    Raises:
        MszooError: vLLM doesn't start.
    """
    with tempfile.TemporaryDirectory(prefix="mszoo-explain-", ignore_cleanup_errors=True) as scratch:
        job, result = Path(scratch) / "job.json", Path(scratch) / "result.json"
        handle, log = tempfile.mkstemp(prefix="mszoo-explain-", suffix=".log")
        os.close(handle)
        settings = _options(folder, workers) | options
        job.write_text(json.dumps({"options": settings, "result": str(result)}), encoding="utf-8")
        command = [sys.executable, "-m", "mszoo.adapters.vllm.cli.explain.worker", str(job)]
        with ProcessGroup(command, Path(log), _environment(os.environ), _PATIENCE) as group:
            while (status := group.exit_status()) is None:
                time.sleep(_POLL)
        text = Path(log).read_text(encoding="utf-8", errors="replace")
        if status or not result.is_file():
            what = f"vLLM did not start, it ended with status {status}: {cause(text)}"
            raise MszooError("mszoo explain --processes", what, f"All that it said is in {log}.")
        os.unlink(log)
        said = json.loads(result.read_text(encoding="utf-8"))
    return Processes(tuple(collect(said["front"], said["workers"], text)), workers, reason)


def collect(front: Mapping[str, Any], workers: Iterable[Mapping[str, Any]], log: str) -> list[Process]:
    """Return the processes: what the front end and the workers say, and the engine core's line in the log."""
    found = [Process("front end", front["pid"], front["digest"])]
    by_pid = {int(pid): (name, digest) for name, pid, digest in _DECIDED.findall(log)}
    said = list(workers)
    pids = {item["pid"] for item in said}
    engine = next((pid for pid, (name, _) in by_pid.items() if name.startswith(_ENGINE)), None)
    if engine is not None and engine not in pids:
        found.append(Process("engine core", engine, by_pid[engine][1]))
    for index, item in enumerate(said):
        role = "engine core and worker" if item["pid"] == engine else f"worker {index}"
        found.append(Process(role, item["pid"], item["digest"], item["adapter"], item["class"]))
    return found


def processes_json(report: Processes) -> dict[str, Any]:
    """Return ``agree``, ``workers`` (their number), ``reason`` (why that many) and ``processes``.

    Each process has ``role``, ``pid``, ``digest``, ``adapter`` and ``model`` (null where it holds none).
    """
    return {
        "agree": report.agree,
        "workers": report.workers,
        "reason": report.reason,
        "processes": [asdict(item) for item in report.processes],
    }


def print_processes(out: Console, report: Processes) -> None:
    """Print who decided what."""
    verdict = "all decided the same" if report.agree else "they did NOT decide the same"
    if not report.served:
        verdict += ", and no MindSpore model serves"
    good = report.agree and report.served
    out.print(f"\nvLLM's processes ({report.reason}): {verdict}", style="bold" if good else "bold red")
    rows = table("Process", "Pid", "Decision", "Serves")
    for item in report.processes:
        serves = item.adapter or item.model or ""
        rows.add_row(item.role, str(item.pid), item.digest or "none", serves)
    out.print(rows)


def _options(folder: Path, workers: int) -> dict[str, Any]:
    return {
        "model": str(folder),
        "tensor_parallel_size": workers,
        "load_format": "dummy",  # deciding reads no weights
        "enforce_eager": True,
        "max_model_len": 64,
        "max_num_seqs": 1,
        "skip_tokenizer_init": True,
    }


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    defaults = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    defaults["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # two workers on whatever cores there are
    fixed = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a forked process would inherit the decision
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # our own function goes to our own workers
        "VLLM_CONFIGURE_LOGGING": "1",
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_LOGGING_COLOR": "0",
        "NO_COLOR": "1",
    }
    kept = {name: value for name, value in environ.items() if name != "VLLM_LOGGING_CONFIG_PATH"}
    return defaults | kept | fixed


def cause(log: str) -> str:
    """Return the line of a log that says most: our own error, else the last one."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    ours = [line.partition(_ERRORS)[2].partition(": ")[2] for line in lines if _ERRORS in line]
    return (ours or lines or ["it said nothing"])[-1]
