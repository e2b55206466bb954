"""Watches a plugin's code at work: what it raises is caught, what it does to the process is undone, and told."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from mszoo.registry import standard_library
from mszoo.registry.process_state import KEPT, Trace
from mszoo.registry.standard_library import has_children, leave_behind
from mszoo.registry.streams import Streams

_HEAVY = ("mindspore", "torch", "vllm")
_contained: ContextVar[bool] = ContextVar("mszoo_contained", default=False)
_forks = [0]
_processes: list[int] = []  # of the containments that are running, the innermost last
_interrupts = [0]


def plugin_is_running() -> bool:
    """Say whether this code was called by a plugin that is being loaded or asked for its records."""
    return _contained.get()


def asks_to_end(error: BaseException) -> bool:
    """Say whether vLLM or the command raised SystemExit: their handlers of signals do, wherever the process is."""
    if not issubclass(type(error), SystemExit):
        return False
    # A plugin's class may answer for itself what its attributes are.
    trace: TracebackType | None = vars(BaseException)["__traceback__"].__get__(error)
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = None if trace is None else trace.tb_frame.f_globals.get("__name__")
    return type(name) is str and name.partition(".")[0] in ("vllm", "mszoo")


@dataclass
class Failure:
    """What a plugin's code raised; None if it came to its end."""

    error: BaseException | None = None


@contextmanager
def caught() -> Iterator[Failure]:
    """Run a plugin's code inside :func:`contained`; whatever it raises is kept, and goes no further.

    SystemExit too: a plugin must not end the server, and who asks the process to end may. A KeyboardInterrupt goes
    on if somebody interrupted the process, and not if the plugin raised it. A child that the plugin forked and that
    returns here ends here.
    """
    failure = Failure()
    interrupts = _interrupts[0]
    try:
        yield failure
    except BaseException as error:
        if issubclass(type(error), KeyboardInterrupt) and _interrupts[0] != interrupts:
            raise
        if asks_to_end(error):
            raise
        failure.error = error
    finally:
        if _processes and os.getpid() != _processes[-1]:
            os._exit(1)


@contextmanager
def contained(*, heavy: bool = False, prints: bool = False) -> Iterator[list[Trace]]:
    """Run a plugin's code; gives a list that holds its traces afterwards.

    What :data:`mszoo.registry.process_state.KEPT` names is put back, and so are the streams. A thread stays, and
    Python's end doesn't wait for it. A child that the
    plugin forked and that returns here ends here: two servers would go on otherwise.

    Args:
        heavy: large libraries may be imported, and threads started.
        prints: what it prints may go to stdout; else it goes to stderr.
    """
    traces: list[Trace] = []
    _count_forks()
    known, threads, forks = _heavy(), set(threading.enumerate()), _forks[0]
    parent = has_children()
    kept = [(item, item.read()) for item in (*KEPT, *standard_library.KEPT) if not (heavy and item.libraries)]
    streams = Streams(lend=not prints)
    token = _contained.set(not heavy)
    _processes.append(os.getpid())
    interrupt = _watch_interrupts()
    try:
        yield traces
    finally:
        if os.getpid() != _processes.pop():
            os._exit(1)
        _forget_interrupts(interrupt)
        _contained.reset(token)
        traces += streams.restore()
        imported = [name for name in _heavy() if name not in known]
        for item, before in kept:
            # A large library brings its own, and needs it.
            if not (imported and item.libraries):
                trace = item.undo(before)
                traces += [] if trace is None else [trace]
        if not heavy:
            started = set(threading.enumerate()) - threads
            for thread in started:
                leave_behind(thread)
            traces += _started(imported, started=bool(started))
        if not heavy and _forks[0] != forks:
            hint = "Use subprocess, where the model is built: mszoo ends forked children that go on with its work."
            traces.append(Trace("forked the process", hint))
        elif not heavy and not imported and not parent and has_children():
            hint = "Start it where the model is built, and end it there."
            traces.append(Trace("started a process, which stays", hint))


def _started(imported: list[str], *, started: bool) -> list[Trace]:
    if imported:
        what = f"imported {', '.join(imported)}, which every vLLM process then pays for"
        return [Trace(what, "Import it in the modules that the records name, not in the plugin.")]
    # The heavy packages start threads of their own.
    if started:
        hint = "Start it where the model is built: vLLM may fork, and a forked process has no such thread."
        return [Trace("started a thread", hint)]
    return []


def _heavy() -> list[str]:
    return [name for name in _HEAVY if name in sys.modules]


def _count_forks() -> None:
    # Such a callback can't be taken back, so there is one per process.
    if not _forks[1:]:
        _forks.append(0)
        os.register_at_fork(after_in_parent=_count_fork)


def _count_fork() -> None:
    _forks[0] += 1


class _Watch:
    """Notes that somebody interrupted the process, and does what was to be done then."""

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def __call__(self, *arguments: Any) -> Any:
        _interrupts[0] += 1
        return self.handler(*arguments)


def _watch_interrupts() -> _Watch | None:
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        return None
    watch = _Watch(handler)
    signal.signal(signal.SIGINT, watch)
    return watch


def _forget_interrupts(watch: _Watch | None) -> None:
    found: Any = signal.getsignal(signal.SIGINT)
    # A handler that the plugin set instead is found by the comparison.
    if watch is not None and found is watch:
        signal.signal(signal.SIGINT, watch.handler)
