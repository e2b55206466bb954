"""The parts of the demo's driver that need no server: reading its log, finding a port, stopping processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from mszoo.adapters.vllm.cli import process
from mszoo.adapters.vllm.cli.demo import folder, serve, smollm2
from mszoo.adapters.vllm.cli.process import ProcessGroup, free_port, running_members

LINE = "mszoo: native.LlamaForCausalLM answers (kernel set cpu, decision 1a2b3c4d5e6f)"


@pytest.mark.parametrize(
    "log",
    [
        LINE,
        f"(EngineCore pid=7) INFO 01-02 03:04:05 [wrapper.py:9] {LINE}\nmore\n",
        f"\x1b[0;36m(EngineCore pid=7)\x1b[0;0m INFO [x.py] {LINE}\r\n",
    ],
)
def test_answerer_is_found(log):
    assert serve.find_answerer(log) == serve.Answerer("native.LlamaForCausalLM", "cpu", "1a2b3c4d5e6f")


@pytest.mark.parametrize(
    "log", ["", "INFO mszoo: 4 architectures registered", "mszoo: x answers (kernel set cpu"]
)
def test_no_answerer(log):
    assert serve.find_answerer(log) is None


def test_last_lines(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"one\n\n\x1b[31mtwo\x1b[0m\n  \nthr\xffee\n\n")
    assert process.last_lines(log, 2) == ["two", "thr\ufffdee"]
    log.write_bytes(b"")
    assert process.last_lines(log, 2) == []


def test_free_port_can_be_bound():
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))


def test_server_environment_keeps_what_is_set():
    assert serve.server_environment({"MSZOO_KERNELS": "mindspore"}) == {
        "MSZOO_KERNELS": "mindspore",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    assert serve.server_environment({"VLLM_CPU_KVCACHE_SPACE": "4"})["VLLM_CPU_KVCACHE_SPACE"] == "4"


def test_server_command_is_vllm_serve(tmp_path, monkeypatch):
    monkeypatch.setattr(serve.sys, "executable", str(tmp_path / "python"))
    hint = "vLLM is not installed. Install it: pip install 'mszoo[cpu]', then mszoo doctor --fix"
    with pytest.raises(serve.DemoError, match=re.escape(hint)):
        serve.server_command(Path("m"), 1)
    (tmp_path / "vllm").touch()
    assert serve.server_command(Path("m"), 1)[:3] == [str(tmp_path / "vllm"), "serve", "m"]


def start(code: str, log: Path, **options) -> ProcessGroup:
    group = ProcessGroup([sys.executable, "-u", "-c", code], log, os.environ, **options)
    deadline = time.monotonic() + 30
    while "ready" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return group


POLITE = "import time; print('ready'); time.sleep(60)"
STUBBORN = """
import signal, subprocess, sys, time
for number in ({signals}):
    signal.signal(number, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])  # inherits what is ignored
print("ready", child.pid)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (POLITE, {1, -signal.SIGINT}),
        (STUBBORN.format(signals="signal.SIGINT,"), {-signal.SIGTERM}),
        (STUBBORN.format(signals="signal.SIGINT, signal.SIGTERM"), {-signal.SIGKILL}),
    ],
)
def test_the_whole_group_is_stopped(tmp_path, code, status):
    with start(code, tmp_path / "log", patience=(0.5, 0.5)) as group:
        assert group.pid in running_members(group.pid)
    assert group.exit_status() in status
    assert running_members(group.pid) == []


def test_children_that_outlive_the_command_are_stopped(tmp_path):
    code = "import subprocess; subprocess.Popen(['sleep', '60']); print('ready')"
    with start(code, tmp_path / "log", patience=(2, 2)) as group:
        while group.exit_status() is None:
            time.sleep(0.02)
        assert len(running_members(group.pid)) == 1
    assert running_members(group.pid) == []


def test_group_is_stopped_after_an_exception(tmp_path):
    with pytest.raises(KeyboardInterrupt), start(POLITE, tmp_path / "log") as group:
        raise KeyboardInterrupt
    assert running_members(group.pid) == []


def test_server_that_dies_shows_its_last_lines(tmp_path, capsys):
    log = tmp_path / "log"
    group = start("print('ready'); raise SystemExit('no such model [/x]')", log)
    with group, pytest.raises(serve.DemoError, match=r"ended with status 1.*log"):
        serve.wait_until_ready(group, free_port(), Console(stderr=True))
    assert "no such model [/x]" in capsys.readouterr().err


def test_server_that_is_never_ready_is_given_up(tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setattr(serve, "START_LIMIT", 0.0)
    with start(POLITE, log) as group, pytest.raises(serve.DemoError) as raised:
        serve.wait_until_ready(group, free_port(), Console(stderr=True))
    assert str(raised.value) == f"vLLM server: not ready after 0 s. See its log: {log}"


def test_no_answer():
    pytest.importorskip("openai")
    with pytest.raises(serve.DemoError) as raised:
        serve.ask(free_port(), Console(stderr=True))  # nobody listens there
    assert str(raised.value) == (
        "vLLM server: the request failed (Connection error.). See its log: .cache/demo-server.log"
    )


SERVER = """#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        choice = dict(index=0, delta=dict(content={answer!r}), finish_reason="stop")
        chunk = dict(id="1", object="chat.completion.chunk", created=0, model="m", choices=[choice])
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\\n\\ndata: [DONE]\\n\\n")

HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("", "vLLM server: the answer is empty. See its log: .cache/demo-server.log"),
        (
            "Paris.",
            "demo: vLLM's own model answered: no worker logged an adapter of mszoo. See `mszoo explain "
            ".cache/smollm2`, MSZOO_DISABLE, VLLM_PLUGINS and the log .cache/demo-server.log",
        ),
    ],
)
def test_a_server_without_an_answer_of_mszoo(tmp_path, monkeypatch, answer, message):
    """A server that speaks vLLM's protocol and logs no adapter, on a model folder that is already there."""
    pytest.importorskip("openai")
    model = tmp_path / ".cache" / "smollm2"
    model.mkdir(parents=True)
    marker = {
        "made_by": "mszoo demo-model",
        "recipe": smollm2.RECIPE,
        "version": smollm2.find_source().version,
        "files": {},
    }
    (model / folder.MARKER).write_text(json.dumps(marker))
    (tmp_path / "vllm").write_text(SERVER.format(python=sys.executable, answer=answer))
    (tmp_path / "vllm").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(serve.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(serve.DemoError) as raised:
        serve.run()
    assert str(raised.value) == message


PICTURES = (
    SERVER.replace("        self.rfile.read(int(", "        body = json.loads(self.rfile.read(int(")
    .replace('"]))', '"])))\n        url = body["messages"][0]["content"][0]["image_url"]["url"]')
    .replace("{answer!r}", "{answer}")
)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            "'the same'",
            "demo: pictures of different colours got one answer: they don't reach the model. "
            "See the log .cache/demo-server.log",
        ),
        (
            "url[:22] + str(len(set(url)) + hash(url))",
            "demo: vLLM's own model answered: no worker logged an adapter of mszoo. See `mszoo explain "
            ".cache/random-llava`, MSZOO_DISABLE, VLLM_PLUGINS and the log .cache/demo-server.log",
        ),
    ],
)
def test_pictures(tmp_path, monkeypatch, capsys, answer, message):
    """A server whose answers show what it was shown; the model's folder is there already."""
    pytest.importorskip("openai")
    (tmp_path / ".cache" / "random-llava").mkdir(parents=True)
    (tmp_path / "vllm").write_text(PICTURES.format(python=sys.executable, answer=answer))
    (tmp_path / "vllm").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(serve.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(serve.DemoError) as raised:
        serve.run(image=True)
    assert str(raised.value) == message
    shown, progress = capsys.readouterr()
    said = "a LLaVA of random weights is in .cache/random-llava: no package has a small real one"
    assert said in progress
    means = "the weights are random and the words mean nothing; each picture got an answer of its own"
    assert (means in shown, "data:image/png;base64," in shown) == (("url" in answer),) * 2


def test_error_is_one_line_and_status_1(monkeypatch, capsys):
    def fail():
        raise serve.DemoError("demo", "vLLM's own model answered", "See the log")

    monkeypatch.setattr(serve, "run", fail)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert serve.main() == 1
    assert capsys.readouterr().err == "demo: vLLM's own model answered. See the log\n"


def test_interrupt_is_status_130(monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "run", interrupt)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert serve.main() == 130


def test_terminated_driver_leaves_no_server(tmp_path):
    """SIGTERM must go through the `with` block that stops the server."""
    code = f"""
import signal, sys
from pathlib import Path
from mszoo.adapters.vllm.cli.demo import serve
from mszoo.adapters.vllm.cli.process import ProcessGroup
def run():
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with ProcessGroup(command, Path({str(tmp_path / "log")!r}), {{}}) as server:
        print(server.pid, flush=True)
        signal.pause()
serve.run = run
sys.exit(serve.main())
"""
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    server = int(driver.stdout.readline())
    driver.terminate()
    assert driver.wait(30) == 128 + signal.SIGTERM
    assert running_members(server) == []
