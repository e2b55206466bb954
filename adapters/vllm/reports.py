"""Who serves, told by each worker to the front end: files in a folder that the processes of one server share.

vLLM has no way for a worker to tell its front end something of its own. The front end names the folder in its
environment, which its processes inherit; workers on other machines write where it doesn't see them.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import secrets
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

#: Names the folder; set by the front end, for its processes.
VARIABLE = "_MSZOO_REPORTS"
#: The folders that this process has named.
_opened: set[str] = set()


@dataclass(frozen=True)
class Report:
    """Who serves in one worker.

    Args:
        architecture: of the model's config.
        suite: whose model it is; ``vllm`` if none's.
        adapter: its qualified name, or vLLM's ``module:Class``.
        kernel_set: the kernels that it runs; ``vllm`` for a model of vLLM's.
        decision: the digest of the process's decisions.
        rank: the worker's, among all of its engine.
        role: ``target``, or ``draft`` of a model that proposes tokens to the target (speculative decoding).
    """

    architecture: str
    suite: str
    adapter: str
    kernel_set: str
    decision: str
    rank: int
    role: str = "target"


def open_folder() -> None:
    """Name a folder for the reports, if this process is a front end; it is gone when the process ends."""
    if multiprocessing.parent_process() is not None and VARIABLE in os.environ:
        return  # one of a front end's processes
    # What starts a server may have engines of its own, and a folder for them.
    if os.environ.get(VARIABLE) not in _opened:
        folder = Path(tempfile.gettempdir()) / f"mszoo-{secrets.token_hex(8)}"
        os.environ[VARIABLE] = str(folder)
        _opened.add(str(folder))
        atexit.register(_remove, folder, os.getpid())


def write(report: Report) -> None:
    """Tell the front end; where the folder can't be written, it stays untold."""
    named = os.environ.get(VARIABLE)
    if not named:
        return
    text = json.dumps(asdict(report))
    folder = Path(named)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        scratch = folder / f"{os.getpid()}.{secrets.token_hex(4)}"
        scratch.write_text(text, encoding="utf-8")
        # Whole or not there: the front end may be reading.
        name = f"{os.getpid()}-{report.rank}-{report.role}-{report.architecture}.json"
        scratch.rename(folder / name)
    except OSError:
        return


def read() -> list[Report]:
    """Return what workers told, by rank."""
    name = os.environ.get(VARIABLE)
    files = sorted(Path(name).glob("*.json")) if name else []
    found = [Report(**json.loads(file.read_text(encoding="utf-8"))) for file in files]
    return sorted(found, key=lambda report: (report.rank, report.adapter))


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child inherits what is to be done at exit
        shutil.rmtree(folder, ignore_errors=True)
