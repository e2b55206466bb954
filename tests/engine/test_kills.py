"""Servers that are stopped, or lose a process, while they answer; that run side by side; and that may write little.

The next server on the same caches gives the same answers, and nothing is left of the one before. They take long, a
server for each: `make test ARGS=--all`.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from mszoo.adapters.vllm.cli.demo.serve import find_answerer
from mszoo.adapters.vllm.cli.process import running_members

from .server import MODEL, Server, make_text_checkpoint, running_server, started_server, wait_until_ready
from .test_faults import assert_all_end, assert_nothing_is_left, family

pytestmark = pytest.mark.long
ENVIRON = {"VLLM_CPU_KVCACHE_SPACE": "1"}
OPTIONS = ("--max-model-len", "512", "--gpu-memory-utilization", "0.2")
PROMPTS = ("a", "of long ago", "x" * 200)
NOBODY = 65534
#: Seconds that a client waits for the next token. vLLM 0.32, with mszoo or without, stops its engine at a signal
#: and then waits for the open streams, which nobody ends.
SILENCE = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text_checkpoint(tmp_path_factory.mktemp("served") / "model", max_position_embeddings=1024)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder whose name is short: vLLM's sockets lie in its temporary one, and may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="kill-") as made:
        folder = Path(made)
        for name in ("work", "tmp", "again"):
            (folder / name).mkdir()
        yield folder


def answers(server: Server) -> list[str]:
    """Return greedy answers; the worker has said that a MindSpore model gave them."""
    body = {"max_tokens": 16, "temperature": 0, "ignore_eos": True}
    given = [
        server.post("/v1/completions", body | {"prompt": prompt})["choices"][0]["text"] for prompt in PROMPTS
    ]
    assert find_answerer(server.log()).adapter == "native.LlamaForCausalLM"
    return given


def stream(server: Server, begun: threading.Event) -> str:
    """Read a long answer to its end, or to the end of the server, or for ten seconds of silence, and say which."""
    body = {"model": MODEL, "prompt": "b", "max_tokens": 400, "stream": True, "ignore_eos": True}
    said = ""
    try:
        with server.http.stream("POST", "/v1/completions", json=body, timeout=SILENCE) as response:
            for line in response.iter_lines():
                begun.set()
                said = line or said
    except httpx.HTTPError as error:
        return type(error).__name__
    finally:
        begun.set()
    return said


@pytest.mark.parametrize("kernels", ["cpu", "mindspore"])
@pytest.mark.parametrize("fault", ["SIGINT", "SIGTERM", "worker", "engine"])
def test_a_server_that_ends_while_it_answers(fault: str, kernels: str, folder: Path, place: Path) -> None:
    """Clients are told of a lost process, all ends, nothing of ours is left, and the next server answers alike."""
    environ = ENVIRON | {"TMPDIR": str(place / "tmp"), "MSZOO_KERNELS": kernels}
    environ["VLLM_CACHE_ROOT"] = str(place / "cache")
    with running_server(folder, place / "work", *OPTIONS, **environ) as server:
        expected = answers(server)
        processes, begun = family(server), threading.Event()
        with ThreadPoolExecutor(1) as pool:
            streamed = pool.submit(stream, server, begun)
            assert begun.wait(60)
            if fault.startswith("SIG"):
                os.kill(server.group.pid, signal.Signals[fault])
            else:
                name = {"worker": "Worker", "engine": "EngineCore"}[fault]
                victims = [one for one in processes if name in " ".join(one.cmdline())]
                # One process does the work of both, where vLLM starts no worker of its own.
                for one in victims or [one for one in processes if "EngineCore" in " ".join(one.cmdline())]:
                    one.kill()
            last = streamed.result(timeout=120)
        if fault.startswith("SIG"):
            assert assert_all_end(server, processes) in (
                0,
                1,
                -signal.Signals[fault],
                128 + signal.Signals[fault],
            )
        else:
            assert last != "ReadTimeout"
            refused = (
                server.http.post("/v1/completions", json={"model": MODEL, "prompt": "a"}, timeout=60)
                if server.group.exit_status() is None
                else None
            )
            assert refused is None or refused.status_code >= 500
        server.group.stop()
        assert running_members(server.group.pid) == []
    assert not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert_nothing_is_left(place)
    with running_server(folder, place / "again", *OPTIONS, **environ) as server:
        assert answers(server) == expected


def test_two_servers_that_start_at_once(folder: Path, place: Path) -> None:
    """They share caches and temporary files."""
    environ = ENVIRON | {"TMPDIR": str(place / "tmp"), "VLLM_CACHE_ROOT": str(place / "cache")}
    with (
        started_server(folder, place / "work", *OPTIONS, **environ) as one,
        started_server(folder, place / "again", *OPTIONS, **environ) as other,
    ):
        wait_until_ready(one)
        wait_until_ready(other)
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(answers, (one, other))
    assert first == second
    assert_nothing_is_left(place)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root may become another")
def test_a_user_who_may_write_nowhere_but_in_temporary_files(folder: Path, place: Path) -> None:
    """A home that is read only, and no user of that number."""
    home, tmp = place / "home", place / "tmp"
    home.mkdir(mode=0o555)
    cache = place / "cache"
    cache.mkdir()
    for one in (tmp, cache):
        os.chown(one, NOBODY, NOBODY)
    for parent in (*folder.parents, *place.parents, place, folder):
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o005:
            parent.chmod(0o755)
    environ = ENVIRON | {"HOME": str(home), "TMPDIR": str(tmp), "VLLM_CACHE_ROOT": str(cache)}
    user = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    # The interpreter may lie in root's home, which another may neither read nor pass through.
    may_read = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    by = ("setpriv", *user, *may_read)
    with started_server(folder, place / "work", *OPTIONS, by=by, **environ) as server:
        wait_until_ready(server)
        assert psutil.Process(server.group.pid).uids().real == NOBODY
        given = answers(server)
    with running_server(folder, place / "again", *OPTIONS, **ENVIRON) as server:
        assert answers(server) == given
    assert list(home.iterdir()) == []
    assert_nothing_is_left(place)
