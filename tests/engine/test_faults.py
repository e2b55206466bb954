"""Servers that are told to end while they start: a prompt end, and nothing is left of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mszoo.adapters.vllm.cli.process import running_members

from .server import Server, make_text_checkpoint, started_server

ENVIRON = {"MSZOO_KERNELS": "mindspore", "VLLM_CPU_KVCACHE_SPACE": "1"}
PATIENCE = 45.0  # seconds to the end of all processes, on a busy machine; a quiet one takes a few
#: Stops discovery, and says where it stands.
SLOW = """
import os, time
from mszoo.registry import Suite, hookimpl

open(os.environ["REACHED"], "w").close()
time.sleep(60)

@hookimpl
def mszoo_suite():
    return Suite("slow")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text_checkpoint(tmp_path_factory.mktemp("served") / "model", max_position_embeddings=1024)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with one for the server and one for temporary files."""
    for name in ("work", "tmp"):
        (tmp_path / name).mkdir()
    return tmp_path


def wait_for(server: Server, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not reached():
        assert server.group.exit_status() is None, server.log()[-4000:]
        assert time.monotonic() < deadline, server.log()[-4000:]
        time.sleep(0.05)


def family(server: Server) -> list[psutil.Process]:
    """Return the server's processes, its own first."""
    root = psutil.Process(server.group.pid)
    return [root, *root.children(recursive=True)]


def assert_all_end(server: Server, processes: list[psutil.Process]) -> int:
    """Wait for the end of all processes, and return the server's exit status."""
    deadline = time.monotonic() + PATIENCE
    while server.group.exit_status() is None or running_members(server.group.pid):
        assert time.monotonic() < deadline, server.log()[-4000:]
        time.sleep(0.1)
    _, alive = psutil.wait_procs(processes, timeout=5)
    left = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert left == []
    status = server.group.exit_status()
    assert status is not None
    return status


def assert_nothing_is_left(place: Path) -> None:
    """No file of ours that is half written, and none that is of this run alone."""
    assert [path for path in (place / "tmp").iterdir() if path.name.startswith("mszoo")] == []
    assert [path for path in place.rglob(".*") if path.is_file() and "mszoo" in path.name] == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_while_plugins_are_found_ends_all_of_it(
    signum: signal.Signals, folder: Path, place: Path
) -> None:
    reached = place / "reached"
    (place / "slow.py").write_text(SLOW)
    environ = ENVIRON | {"TMPDIR": str(place / "tmp"), "REACHED": str(reached)}
    environ |= {"MSZOO_PLUGINS": str(place / "slow.py")}
    with started_server(folder, place / "work", **environ) as server:
        wait_for(server, reached.exists)
        processes = family(server)
        if signum == signal.SIGINT:  # of a terminal: it reaches all of them
            os.killpg(server.group.pid, signum)
        else:
            os.kill(server.group.pid, signum)
        status = assert_all_end(server, processes)
    # 1: a start that is interrupted. Not -11, -6 or -9: nobody crashed or had to be killed.
    assert status in (0, 1, -signum, 128 + signum), server.log()[-4000:]
    assert_nothing_is_left(place)
