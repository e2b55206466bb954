"""Servers that are signalled or killed, that share a machine, or can't write: a clear end, nothing left."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from mszoo.adapters.vllm.cli.process import running_members

from .server import MODEL, Server, make_text_checkpoint, running_server, started_server, wait_until_ready

OPTIONS = ("--max-model-len", "512", "--max-num-seqs", "4", "--max-num-batched-tokens", "512")
OPTIONS += ("--gpu-memory-utilization", "0.2", "--num-gpu-blocks-override", "64")
ENVIRON = {"MSZOO_KERNELS": "mindspore", "VLLM_CPU_KVCACHE_SPACE": "1"}
REQUEST = {"prompt": "abc def", "max_tokens": 8, "temperature": 0}
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


@pytest.fixture(scope="module")
def answer(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What Hugging Face answers to REQUEST; each token is a character."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    given = tokenizer(REQUEST["prompt"], return_tensors="pt", add_special_tokens=False).input_ids
    model = AutoModelForCausalLM.from_pretrained(folder).float()
    made = model.generate(given, max_new_tokens=8, min_new_tokens=8, do_sample=False)[0, given.shape[1] :]
    return str(tokenizer.decode(made))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with one for the server and one for temporary files."""
    for name in ("work", "tmp"):
        (tmp_path / name).mkdir()
    return tmp_path


def environ_in(place: Path) -> dict[str, str]:
    return ENVIRON | {"TMPDIR": str(place / "tmp")}


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


def answer_of(server: Server) -> str:
    text: str = server.post("/v1/completions", REQUEST)["choices"][0]["text"]
    return text


def stream(server: Server) -> None:
    """Ask for a long answer, until the server goes away."""
    body = {"model": MODEL, "prompt": "b" * 40, "max_tokens": 400, "ignore_eos": True, "stream": True}
    with (
        contextlib.suppress(httpx.HTTPError),
        server.http.stream("POST", "/v1/completions", json=body) as response,
    ):
        for _ in response.iter_lines():
            pass


#: What the log has when a phase begins.
SAYS = {"loading": "Starting to load model", "compiling": "Warming up model for the compilation"}
PHASES = ("discovery", *SAYS, "serving", "load")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    "phase", [PHASES[0], *(pytest.param(phase, marks=pytest.mark.long) for phase in PHASES[1:])]
)
def test_a_signal_ends_all_of_it(phase: str, signum: signal.Signals, folder: Path, place: Path) -> None:
    environ, reached = environ_in(place), place / "reached"
    if phase == "discovery":
        (place / "slow.py").write_text(SLOW)
        environ |= {"MSZOO_PLUGINS": str(place / "slow.py"), "REACHED": str(reached)}
    with ThreadPoolExecutor(4) as pool, started_server(folder, place / "work", *OPTIONS, **environ) as server:
        if phase == "discovery":
            wait_for(server, reached.exists)
        elif phase in SAYS:
            wait_for(server, lambda: SAYS[phase] in server.log())
        else:
            wait_until_ready(server)
        if phase == "load":
            for _ in range(4):
                pool.submit(stream, server)
            wait_for(server, lambda: server.metric("vllm:num_requests_running") > 0)
        processes = family(server)
        if signum == signal.SIGINT:  # of a terminal: it reaches all of them
            os.killpg(server.group.pid, signum)
        else:
            os.kill(server.group.pid, signum)
        status = assert_all_end(server, processes)
    # 1: a start that is interrupted. Not -11, -6 or -9: nobody crashed or had to be killed.
    assert status in (0, 1, -signum, 128 + signum), server.log()[-4000:]
    assert_nothing_is_left(place)


@pytest.mark.parametrize("who", ["EngineCore", pytest.param("Worker", marks=pytest.mark.long)])
def test_a_killed_process_ends_the_server_and_it_starts_again(
    who: str, folder: Path, answer: str, place: Path
) -> None:
    with running_server(folder, place / "work", *OPTIONS, **environ_in(place)) as server:
        assert answer_of(server) == answer
        processes = family(server)
        (victim,) = [process for process in processes if who in " ".join(process.cmdline())]
        victim.kill()
        status = assert_all_end(server, processes)
        assert status != 0
        assert "EngineDeadError" in server.log() or "died unexpectedly" in server.log()
    assert_nothing_is_left(place)
    with running_server(folder, place / "work", *OPTIONS, **environ_in(place)) as server:
        assert answer_of(server) == answer


@pytest.mark.long
def test_two_servers_at_once_that_share_their_caches(folder: Path, answer: str, place: Path) -> None:
    environ = environ_in(place) | {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CACHE_ROOT": str(place / "cache"),
    }
    (place / "other").mkdir()
    with (
        started_server(folder, place / "work", *OPTIONS, **environ) as one,
        started_server(folder, place / "other", *OPTIONS, **environ) as other,
    ):
        servers = (one, other)
        for server in servers:
            wait_until_ready(server)
        for server in (*servers, *servers):
            assert answer_of(server) == answer
        for server in servers:
            assert "mszoo: native.LlamaForCausalLM answers (" in server.log()
            assert server.metric("mszoo_model_info", suite="native") == 1
    assert_nothing_is_left(place)


AS_ANOTHER = ("unshare", "--user", "--map-user=1000", "--map-group=1000")


@pytest.mark.long
def test_someone_who_may_write_nowhere_is_served(folder: Path, answer: str, place: Path) -> None:
    by: tuple[str, ...] = ()
    if os.getuid() == 0:  # whom no permission holds back
        if shutil.which("unshare") is None or subprocess.run([*AS_ANOTHER, "true"], check=False).returncode:
            pytest.skip("this machine lets root be nobody else")
        by = AS_ANOTHER
    home = place / "home"
    (home / ".cache").mkdir(parents=True)
    for path in (home / ".cache", home):
        path.chmod(0o555)
    environ = environ_in(place) | {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    environ |= {"VLLM_CACHE_ROOT": str(home / ".cache" / "vllm"), "HF_HOME": str(home / "hf")}
    with started_server(folder, place / "work", *OPTIONS, by=by, **environ) as server:
        wait_until_ready(server)
        assert answer_of(server) == answer
        assert "mszoo: native.LlamaForCausalLM answers (" in server.log()
        assert server.metric("mszoo_model_info", suite="native") == 1
    assert list(home.rglob("*")) == [home / ".cache"]
    assert_nothing_is_left(place)
