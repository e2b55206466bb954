"""Watches a plugin's code at work: what it does to the process is undone where possible, and told."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

_HEAVY = ("mindspore", "torch", "vllm")
_OPERATORS_OWN = ("MSZOO_", "VLLM_")
_contained: ContextVar[bool] = ContextVar("mszoo_contained", default=False)
_forks = [0]


@dataclass(frozen=True)
class Trace:
    """Something that a plugin's code did to the process: a clause in the past tense, and how to mend it."""

    what: str
    hint: str


def plugin_is_running() -> bool:
    """Say whether this code was called by a plugin that is being loaded or asked for its records."""
    return _contained.get()


@contextmanager
def contained() -> Iterator[list[Trace]]:
    """Run a plugin's code; gives a list that holds its traces afterwards.

    The working directory, the operator's VLLM_* and MSZOO_* variables and sys.stderr are put back. A child that
    the plugin forked and that returns here ends here: two servers would go on otherwise.
    """
    traces: list[Trace] = []
    _count_forks()
    before, pid = _State(), os.getpid()
    token = _contained.set(True)
    try:
        yield traces
    finally:
        if os.getpid() != pid:
            os._exit(1)
        _contained.reset(token)
        traces += before.compare()


class _State:
    """What plugins must leave alone."""

    def __init__(self) -> None:
        self.folder = _working_directory()
        self.environ = _operators_own()
        self.stderr = sys.stderr
        self.heavy = _heavy()
        self.threads = set(threading.enumerate())
        self.forks = _forks[0]

    def compare(self) -> list[Trace]:
        """Put back what can be put back, and say what was changed."""
        traces = []
        if self.folder is not None and _working_directory() != self.folder:
            os.chdir(self.folder)
            traces.append(Trace("changed the working directory, which was undone", "Remove the os.chdir()."))
        environ = _operators_own()
        changed = sorted(
            name for name in self.environ.keys() | environ if self.environ.get(name) != environ.get(name)
        )
        for name in changed:
            if name in self.environ:
                os.environ[name] = self.environ[name]
            else:
                del os.environ[name]
        if changed:
            what = f"changed {', '.join(changed)}, which was undone"
            traces.append(Trace(what, "Leave vLLM's and mszoo's variables to the operator."))
        if sys.stderr is not self.stderr:
            sys.stderr = self.stderr
            traces.append(Trace("replaced sys.stderr, which was undone", "Leave it as it is."))
        heavy = [name for name in _heavy() if name not in self.heavy]
        if heavy:
            what = f"imported {', '.join(heavy)}, which every vLLM process then pays for"
            traces.append(Trace(what, "Import it in the modules that the records name, not in the plugin."))
        # The heavy packages start threads of their own.
        elif set(threading.enumerate()) - self.threads:
            hint = (
                "Start it where the model is built: vLLM may fork, and a forked process has no such thread."
            )
            traces.append(Trace("started a thread", hint))
        if _forks[0] != self.forks:
            hint = "Use subprocess, where the model is built: mszoo ends forked children that go on with its work."
            traces.append(Trace("forked the process", hint))
        return traces


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _operators_own() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_OPERATORS_OWN)}


def _heavy() -> list[str]:
    return [name for name in _HEAVY if name in sys.modules]


def _count_forks() -> None:
    # Such a callback can't be taken back, so there is one per process.
    if not _forks[1:]:
        _forks.append(0)
        os.register_at_fork(after_in_parent=_count_fork)


def _count_fork() -> None:
    _forks[0] += 1
