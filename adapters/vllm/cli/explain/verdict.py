"""Asks, in a process of its own, who serves a model folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from mszoo.registry.errors import MszooError
from mszoo.registry.objects import find_module

_LIMIT = 600.0  # seconds; a big network takes minutes on a slow disk


@dataclass(frozen=True)
class Asked:
    """What one candidate said.

    Args:
        adapter: its qualified name.
        accepted: whether its network was built, ran a step and expects what the checkpoint has.
        reason: why it refuses.
    """

    adapter: str
    accepted: bool
    reason: str | None = None


@dataclass(frozen=True)
class Verdict:
    """Who serves a folder.

    Args:
        architecture: what vLLM resolved the folder's ``architectures`` to; None where it can't.
        server: who answers, in words; None if nobody.
        adapter: the qualified name of the candidate that serves, if one does.
        kernel_set: the kernels that it runs.
        model: ``module:Class`` of who serves.
        reason: why nobody serves, or why it isn't a MindSpore model.
        asked: the candidates that were asked, in order.
    """

    architecture: str | None
    server: str | None
    adapter: str | None = None
    kernel_set: str | None = None
    model: str | None = None
    reason: str | None = None
    asked: tuple[Asked, ...] = ()


def ask(folder: Path, dtype: str | None, trust_remote_code: bool = False) -> Verdict:
    """Let a process decide as ``vllm serve FOLDER`` would, up to the loading of weights.

    Args:
        folder: the model.
        dtype: of ``--dtype``; None for vLLM's default.
        trust_remote_code: vLLM's option: Python files that the folder brings may run.

    Raises:
        MszooError: vLLM isn't installed, or the process died.
    """
    if find_module("vllm") is None:
        what, hint = (
            "asking who serves a folder needs vLLM",
            "Install it: pip install 'mszoo[cpu]'. Or: --no-build",
        )
        raise MszooError("mszoo explain", what, hint)
    options: dict[str, Any] = {"model": str(folder), "skip_tokenizer_init": True}
    if dtype is not None:
        options["dtype"] = dtype
    if trust_remote_code:
        options["trust_remote_code"] = True
    with tempfile.TemporaryDirectory(prefix="mszoo-explain-") as scratch:
        job, result = Path(scratch) / "job.json", Path(scratch) / "result.json"
        job.write_text(json.dumps({"options": options, "result": str(result)}), encoding="utf-8")
        command = [sys.executable, "-m", "mszoo.adapters.vllm.cli.explain.trial", str(job)]
        environ = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"} | dict(os.environ)
        run = subprocess.run(
            command,
            env=environ,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT,
            check=False,
        )
        if run.returncode or not result.is_file():
            said = [line.strip() for line in (run.stdout + run.stderr).splitlines() if line.strip()]
            what = (
                f"building the model ended with status {run.returncode}: {(said or ['it said nothing'])[-1]}"
            )
            raise MszooError("mszoo explain", what, "--no-build shows what the adapters' records say.")
        found = json.loads(result.read_text(encoding="utf-8"))
    return Verdict(**{**found, "asked": tuple(Asked(**item) for item in found["asked"])})


def print_verdict(out: Console, verdict: Verdict) -> None:
    """Print who serves, and what each candidate said."""
    who = verdict.server or "nobody"
    kernels = f", kernel set {verdict.kernel_set}" if verdict.kernel_set else ""
    style = "bold" if verdict.adapter else "bold yellow"
    out.print(f"\nWith vLLM's defaults {who} serves it{kernels}", style=style)
    for item in verdict.asked:
        how = (
            "is built, runs a step, and takes the checkpoint" if item.accepted else f"refuses. {item.reason}"
        )
        out.print(f"{item.adapter} {how}")
    if verdict.reason is not None:
        out.print(f"Why: {verdict.reason}")
