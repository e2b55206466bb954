"""Drives `make demo`: serves the demo model with vLLM, asks it one question and shows who answered.

Run as `python -m mszoo.adapters.vllm.cli.demo.serve` in the folder that takes `.cache`. With `--image` it is a tiny
LLaVA of random weights, asked about two pictures: it shows that images reach the model, and no more. Exit status:
0 if an adapter of mszoo answered, 1 if not, 130 after Ctrl-C.
"""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from mszoo.adapters.vllm.cli.demo import NAME, folder, make_with_progress, random_llava
from mszoo.adapters.vllm.cli.process import COLOUR, ProcessGroup, free_port, last_lines
from mszoo.registry.errors import MszooError

QUESTION = "What is the capital of France?"
MODEL = "smollm2"
IMAGE_QUESTION, IMAGE_MODEL = "What is in the picture?", "random-llava"
#: Of the pictures: one colour each.
COLOURS = ("crimson", "seagreen")
CACHE = Path(".cache")
LOG = CACHE / "demo-server.log"
START_LIMIT = 900.0  # seconds; a slow machine compiles for minutes
_SHOWN_LINES = 15
_ANSWERED = re.compile(r"mszoo: (\S+) answers \(kernel set (\w+), decision (\w+)\)")


class DemoError(MszooError):
    """The demo can't run, or vLLM served without mszoo."""


@dataclass(frozen=True)
class Answerer:
    """Who computed an answer, as the worker that ran the model logged it."""

    adapter: str
    kernel_set: str
    decision: str


@dataclass(frozen=True)
class Timing:
    """Of one streamed answer: seconds to the first token, and tokens per second after it."""

    first_token: float
    rate: float
    text: str = ""


def find_answerer(log: str) -> Answerer | None:
    """Return who answered according to a server log, None if no worker named an adapter of mszoo."""
    match = _ANSWERED.search(COLOUR.sub("", log))
    return None if match is None else Answerer(*match.groups())


def server_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the server's environment: ours, with a small KV cache unless one is set."""
    return {"VLLM_CPU_KVCACHE_SPACE": "1", **environ}


def server_command(directory: Path, port: int, model: str = MODEL) -> list[str]:
    """Return the `vllm serve` command for a model folder; DemoError if there is no such command.

    Args:
        directory: the folder.
        port: to listen on.
        model: the name that requests give.
    """
    vllm = Path(sys.executable).with_name("vllm")
    if not vllm.is_file():
        hint = "Install it: pip install 'mszoo[cpu]', then mszoo doctor --fix"
        raise DemoError("demo", "vLLM is not installed", hint)
    options = {
        "--dtype": "float32",
        "--max-model-len": "2048",
        "--host": "127.0.0.1",
        "--port": str(port),
        "--served-model-name": model,
    }
    return [str(vllm), "serve", str(directory), *(word for option in options.items() for word in option)]


def wait_until_ready(server: ProcessGroup, port: int, console: Console) -> None:
    """Wait for the server's health check, showing the time and its last log line.

    DemoError if it ends or START_LIMIT passes.
    """
    # Proxy settings are for the outside world; the server is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    start = time.monotonic()
    with console.status("") as status:
        while True:
            _require_alive(server, console)
            elapsed = time.monotonic() - start
            line = "".join(last_lines(server.log, 1))
            text = Text(
                f"the vLLM server is starting, {elapsed:.0f} s  {line}", no_wrap=True, overflow="ellipsis"
            )
            text.truncate(max(console.width - 4, 20), overflow="ellipsis")
            status.update(text)
            try:
                with opener.open(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                pass  # not listening yet
            if elapsed > START_LIMIT:
                what = f"not ready after {elapsed:.0f} s"
                raise DemoError("vLLM server", what, f"See its log: {server.log}")
            time.sleep(0.5)
    console.print(f"the vLLM server is ready after {time.monotonic() - start:.0f} s")


def ask(port: int, console: Console, content: Any = QUESTION, model: str = MODEL, **body: Any) -> Timing:
    """Stream the greedy answer to `console`; DemoError if the server doesn't give one.

    Args:
        port: the server's.
        console: gets the answer.
        content: of the message, text or parts as OpenAI's API has them.
        model: the name that the server gives it.
        body: further fields of the request, which are vLLM's own.
    """
    import openai

    base_url = f"http://127.0.0.1:{port}/v1"
    http_client = openai.DefaultHttpxClient(trust_env=False)  # no proxy
    start = time.monotonic()
    first = tokens = 0.0
    text = ""
    try:
        with openai.OpenAI(
            base_url=base_url, api_key="none", http_client=http_client, max_retries=0
        ) as client:
            stream = client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": content}],
                temperature=0,
                max_tokens=64,
                stream=True,
                stream_options={"include_usage": True},
                extra_body=body,
            )
            for chunk in stream:
                if chunk.usage is not None:
                    tokens = chunk.usage.completion_tokens
                for choice in chunk.choices:
                    if choice.delta.content:
                        first = first or time.monotonic()
                        text += choice.delta.content
                        console.out(choice.delta.content, end="", highlight=False)
    except openai.OpenAIError as error:
        raise DemoError("vLLM server", f"the request failed ({error})", f"See its log: {LOG}") from error
    console.print()
    if not first:
        raise DemoError("vLLM server", "the answer is empty", f"See its log: {LOG}")
    return Timing(first - start, max(tokens - 1, 0) / (time.monotonic() - first), text)


def ask_about_pictures(port: int, console: Console) -> Timing:
    """Ask about pictures that the request itself brings; DemoError if they make no difference to the answers."""
    timings = []
    for colour in COLOURS:
        console.print(f"[bold]> ({colour} picture) {IMAGE_QUESTION}[/bold]")
        parts = [
            {"type": "image_url", "image_url": {"url": picture(colour)}},
            {"type": "text", "text": IMAGE_QUESTION},
        ]
        timings.append(ask(port, console, parts, IMAGE_MODEL, ignore_eos=True))
    if len({timing.text for timing in timings}) < len(COLOURS):
        what = "pictures of different colours got one answer: they don't reach the model"
        raise DemoError("demo", what, f"See the log {LOG}")
    console.print(
        "the weights are random and the words mean nothing; each picture got an answer of its own",
        soft_wrap=True,
    )
    return timings[0]


def picture(colour: str) -> str:
    """Return a picture of one colour as a data URL, which has it in base64."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (90, 60), colour).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def run(environ: Mapping[str, str] = os.environ, *, image: bool = False) -> None:
    """Make the model if needed, serve it, ask, report. DemoError or DemoModelError if something fails."""
    console, progress = Console(), Console(stderr=True)
    CACHE.mkdir(exist_ok=True)
    model = IMAGE_MODEL if image else MODEL
    directory = CACHE / model
    if image:
        if not directory.exists():
            random_llava.make(directory)
        what = f"a LLaVA of random weights is in {directory}: no package has a small real one"
        progress.print(what, soft_wrap=True)
    elif make_with_progress(directory, force=folder.is_outdated(directory)):
        progress.print(f"{NAME} is in {directory}")
    port = free_port()
    command = server_command(directory, port, model)
    progress.print(f"$ {' '.join(command)}", soft_wrap=True, highlight=False)
    progress.print(f"log: {LOG}", highlight=False)
    with ProcessGroup(command, LOG, server_environment(environ)) as server:
        wait_until_ready(server, port, progress)
        try:
            if image:
                timing = ask_about_pictures(port, console)
            else:
                console.print(f"[bold]> {QUESTION}[/bold]")
                timing = ask(port, console)
        except DemoError:
            _require_alive(server, progress)
            raise
        progress.print("stopping the server")
    answerer = find_answerer(LOG.read_text(encoding="utf-8", errors="replace"))
    if not image:  # halves of characters come late, as the words of random weights have them
        speed = f"time to first token {timing.first_token:.2f} s, {timing.rate:.1f} tokens/s"
        console.print(speed, highlight=False)
    if answerer is None:
        what = "vLLM's own model answered: no worker logged an adapter of mszoo"
        hint = f"See `mszoo explain {directory}`, MSZOO_DISABLE, VLLM_PLUGINS and the log {LOG}"
        raise DemoError("demo", what, hint)
    console.print(
        f"answered by {answerer.adapter}, kernel set {answerer.kernel_set}, decision {answerer.decision}",
        highlight=False,
    )


def main() -> int:
    """Run the demo and return the exit status; errors are one line on standard error."""
    # In a shell's background job interrupts are ignored, and the server would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _terminate)
    try:
        run(image=True) if "--image" in sys.argv[1:] else run()
    except (MszooError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted, everything it started was stopped", file=sys.stderr)
        return 130
    return 0


def _require_alive(server: ProcessGroup, console: Console) -> None:
    status = server.exit_status()
    if status is None:
        return
    for line in last_lines(server.log, _SHOWN_LINES):
        console.print(Text(line), soft_wrap=True)
    raise DemoError("vLLM server", f"it ended with status {status}", f"See its log: {server.log}")


def _terminate(signum: int, _: object) -> NoReturn:
    # Leaves through the `with` block that stops the server; the default action would leave it running.
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    sys.exit(main())
