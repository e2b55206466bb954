"""Starts a server as a process group of its own and stops all of it, whatever its members do."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_POLL = 0.1


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ProcessGroup:
    """A command with its output in a file; leaving the `with` block stops it and all its descendants.

    Args:
        command: program and arguments.
        log: file that takes standard output and standard error; what it held is lost.
        environ: the environment of the command.
        patience: seconds to wait after SIGINT, then after SIGTERM; SIGKILL comes last.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environ: Mapping[str, str],
        patience: tuple[float, float] = (20.0, 5.0),
    ) -> None:
        self.log = log
        self._patience = patience
        with log.open("wb") as output:
            self._leader = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environ),
                start_new_session=True,  # Ctrl-C in the terminal then reaches us alone; we stop the group
            )

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the command, which is also the id of its group."""
        return self._leader.pid

    def exit_status(self) -> int | None:
        """Return the command's exit status, None while it runs."""
        return self._leader.poll()

    def stop(self) -> None:
        """End the group: SIGINT, then SIGTERM, then SIGKILL; SIGKILL at once if interrupted meanwhile."""
        try:
            for signum, patience in zip((signal.SIGINT, signal.SIGTERM), self._patience, strict=True):
                if self._signal_and_wait(signum, patience):
                    return
        finally:
            self._signal_and_wait(signal.SIGKILL, 5.0)

    def _signal_and_wait(self, signum: signal.Signals, patience: float) -> bool:
        """Send a signal to the group if it runs; return whether it is gone within `patience` seconds."""
        deadline = time.monotonic() + patience
        signalled = False
        while self._leader.poll() is None or running_members(self.pid):
            if time.monotonic() >= deadline:
                return False
            if not signalled:
                with contextlib.suppress(ProcessLookupError):  # gone since we looked
                    os.killpg(self.pid, signum)
                signalled = True
            time.sleep(_POLL)
        return True


def running_members(group: int) -> list[int]:
    """Return the process ids in a process group that still run, read from /proc.

    A zombie doesn't count: it waits for a parent to collect it, and in a container that may never happen.
    """
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "stat").read_text(errors="replace")
        except OSError:
            continue  # ended while we looked
        state, _, process_group = status.rpartition(")")[2].split()[:3]
        if int(process_group) == group and state not in "ZX":
            members.append(int(entry.name))
    return members


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last non-blank lines of a log file, without colour codes."""
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = deque((line for line in file if line.strip()), count)
    return [COLOUR.sub("", line.rstrip()) for line in lines]
