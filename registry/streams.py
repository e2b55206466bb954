"""The process's standard streams while a plugin's code runs: what it prints goes to stderr, and none is lost."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sys
from typing import Any

from mszoo.registry.process_state import Trace

_NAMES = ("stdin", "stdout", "stderr")
_HINT = "Leave it as it is."
_HIGH = 300  # out of the way of a plugin that closes what it takes for its own


class _Lent:
    """A stream that a plugin may print to, keep and close: the real one stays open.

    Args:
        target: the real one; None where the process has none.
    """

    closed = False

    def __init__(self, target: Any) -> None:
        self._target = target
        self.owner: int | None = (
            os.getpid()
        )  # while it is lent: a child that the plugin forked would print again

    def write(self, text: str) -> int:
        """Write to the real stream, or to the one that took its place."""
        if self.owner not in (None, os.getpid()):
            return len(text)
        target = sys.__stderr__ if self._target is None or self._target.closed else self._target
        return len(text) if target is None or target.closed else int(target.write(text))

    def flush(self) -> None:
        """Flush the real stream."""
        with contextlib.suppress(ValueError, OSError, AttributeError):
            self._target.flush()

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> _Lent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


class Streams:
    """The streams at one moment.

    Args:
        lend: give the code a stand-in for stdout and stderr, which ends at stderr: our stdout may be JSON that a
            program reads.
    """

    def __init__(self, *, lend: bool) -> None:
        self._objects = {name: (getattr(sys, name), getattr(sys, f"__{name}__")) for name in _NAMES}
        numbers = {0, 1, 2, *(_descriptor(getattr(sys, name)) for name in _NAMES)} - {-1}
        self._files = {number: _identity(number) for number in sorted(numbers)}
        copies = {number: _copy(number) for number, found in self._files.items() if found}
        self._copies = {number: copy for number, copy in copies.items() if copy is not None}
        self._lent = _Lent(sys.stderr) if lend else None
        if lend:
            sys.stdout = sys.stderr = self._lent  # type: ignore[assignment]

    def restore(self) -> list[Trace]:
        """Put the streams back, and say what was done to them."""
        traces: list[Trace] = []
        if self._lent is not None:
            self._lent.owner = None
        changed = [number for number in self._copies if _identity(number) != self._files[number]]
        for number in changed:
            with contextlib.suppress(OSError):
                os.dup2(self._copies[number], number, inheritable=number < len(_NAMES))
        for copy in self._copies.values():
            with contextlib.suppress(OSError):
                os.close(copy)
        if changed:
            left = any(_identity(number) != self._files[number] for number in changed)
            numbers = ", ".join(map(str, changed))
            what = f"closed or replaced file descriptor {numbers}, which {_undone(not left)}"
            traces.append(Trace(what, "Leave the standard streams open."))
        replaced = [name for name in _NAMES if not self._is_as_left(name)]
        closed = [name for name in _NAMES if any(map(_is_closed, self._objects[name]))]
        for name, (stream, original) in self._objects.items():
            fresh = _reopened(name) if name in closed else None
            setattr(sys, name, fresh if _is_closed(stream) else stream)
            setattr(sys, f"__{name}__", fresh if _is_closed(original) else original)
            if fresh is not None:
                _hand_to_loggers({id(stream), id(original)}, fresh)
        for names, did in ((replaced, "replaced"), (closed, "closed")):
            if names:
                what = f"{did} {', '.join(f'sys.{name}' for name in names)}, which was undone"
                traces.append(Trace(what, _HINT))
        return traces

    def _is_as_left(self, name: str) -> bool:
        stream, original = self._objects[name]
        given = stream if self._lent is None or name == "stdin" else self._lent
        return getattr(sys, name, None) is given and getattr(sys, f"__{name}__", None) is original


def _undone(good: bool) -> str:
    return "was undone" if good else "could not be undone"


def _descriptor(stream: Any) -> int:
    try:
        return int(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return -1


def _identity(number: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _copy(number: int) -> int | None:
    for least in (_HIGH, len(_NAMES)):  # the limit of the process may be lower
        with contextlib.suppress(OSError):
            return int(fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, least))
    return None


def _is_closed(stream: Any) -> bool:
    try:
        return bool(stream.closed) if stream is not None else False
    except ValueError:  # its buffer was detached
        return True


def _reopened(name: str) -> Any:
    """Return a new stream on a descriptor whose Python object was closed."""
    number = _NAMES.index(name)
    errors = "backslashreplace" if name == "stderr" else None
    try:
        return open(number, "w" if number else "r", buffering=1, errors=errors, closefd=False)
    except OSError:
        return None


def _hand_to_loggers(lost: set[int], fresh: Any) -> None:
    """Let the handlers that wrote to a closed stream write to its successor."""
    existing = [logging.root, *logging.root.manager.loggerDict.copy().values()]
    for logger in existing:
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler) and id(handler.stream) in lost:
                handler.stream = fresh
