"""Hours of mixed load on one `vllm serve`: are the answers right all along, and does its memory stay flat?

    python -m tests.benchmarks.soak [--minutes 30] [--kernels cpu|mindspore] [--lora] [--pace 30] [--model DIR]

A server of a tiny random Llama (or of DIR) answers rounds of requests that run side by side: completions whose
answers it gave before the load, chats of ever new lengths, structured output, streams whose client goes away, and
requests that are wrong. With ``--lora`` each round ends with requests to a LoRA adapter; they run apart, because
vLLM on CPU answers a request without an adapter wrongly beside one that has one. The memory of the server's
processes is looked at every other second, and a line is fitted to what was seen after the warm-up: of all, and of
each. With ``--alone`` vLLM's own model answers, to compare with: its API server keeps 12 to 14 KiB of each round
(vLLM 0.32), so a line through memory says nothing of models unless rounds have a pace (``--pace``). They have none
in the warm-up, which is to fill what is bounded: oneDNN keeps 1,024 primitives, 350 MiB of them on this model, and
makes one for each size of a product (``ONEDNN_PRIMITIVE_CACHE_CAPACITY=32`` leaves none of that growth).

Exit status 1: an answer was wrong, the server ended, or, in a run of more than ten minutes, memory grew by more
than 1 MiB a minute after them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import string
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.engine.server import MODEL, Server, make_text_checkpoint, running_server
from tests.engine.test_inherited import make_lora

MIB = 1 << 20
STEEPEST = 1.0  # MiB a minute
WARM_UP = 10.0  # minutes
EVERY = 2.0  # seconds
PACE = 30.0  # rounds a minute: 400 to 600 requests
REFERENCES = tuple(
    "".join(random.Random(length).choices(string.ascii_letters, k=length))
    for length in (1, 9, 33, 70, 150, 301)
)
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
MALFORMED: tuple[tuple[str, Any], ...] = (
    ("/v1/completions", {"model": MODEL, "prompt": "a", "max_tokens": -1}),
    ("/v1/completions", {"model": "nobody", "prompt": "a"}),
    ("/v1/completions", {"model": MODEL, "prompt": "a", "temperature": "hot"}),
    ("/v1/completions", {"model": MODEL, "prompt": "a" * 5000, "max_tokens": 5}),
    ("/v1/chat/completions", {"model": MODEL, "messages": "hello"}),
    ("/v1/chat/completions", {"model": MODEL, "messages": [], "logit_bias": {"x": 1}}),
)


@dataclass
class Tally:
    """What happened."""

    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def note(self, kind: str, fault: str | None = None) -> None:
        """Count a request, and keep what was wrong with its answer."""
        self.done[kind] += 1
        if fault is not None:
            self.wrong.append(f"{kind}: {fault}"[:300])


class Memory(threading.Thread):
    """Samples the resident memory of a process and its descendants.

    Attributes:
        samples: seconds since the start, and bytes of each process by its id.
        names: of the processes, by their ids.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root, self._begin, self._over = psutil.Process(pid), time.monotonic(), threading.Event()
        self.samples: list[tuple[float, dict[int, int]]] = []
        self.names: dict[int, str] = {}

    def run(self) -> None:
        """Sample until :meth:`end`."""
        while not self._over.wait(EVERY):
            found: dict[int, int] = {}
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in (self._root, *self._root.children(recursive=True)):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        found[process.pid] = process.memory_info().rss
                        self.names[process.pid] = process.name()
            self.samples.append((time.monotonic() - self._begin, found))

    def end(self) -> None:
        """Stop sampling."""
        self._over.set()
        self.join()


def slope(samples: Sequence[tuple[float, dict[int, int]]]) -> float:
    """Return the slope of a line through the sums of all processes, in MiB a minute."""
    times = [at / 60 for at, _ in samples]
    sizes = [sum(found.values()) / MIB for _, found in samples]
    if len(times) < 3:
        return 0.0
    middle, mean = sum(times) / len(times), sum(sizes) / len(sizes)
    spread = sum((at - middle) ** 2 for at in times)
    return sum((at - middle) * (size - mean) for at, size in zip(times, sizes, strict=True)) / spread


def plot(samples: Sequence[tuple[float, dict[int, int]]], rows: int = 10, columns: int = 72) -> str:
    """Return a plot of the sums in letters, with MiB at the side and minutes below."""
    sizes = [sum(found.values()) / MIB for _, found in samples]
    shown = [
        max(
            sizes[column * len(sizes) // columns : max(1, (column + 1) * len(sizes) // columns)]
            or [sizes[-1]]
        )
        for column in range(min(columns, len(sizes)))
    ]
    low, high = min(shown), max(shown)
    step = max((high - low) / (rows - 1), 1e-9)
    lines = []
    for row in range(rows - 1, -1, -1):
        marks = "".join("*" if round((size - low) / step) == row else " " for size in shown)
        lines.append(f"{low + row * step:9.0f} |{marks}")
    lines.append(f"{'MiB':>9} +{'-' * len(shown)} {samples[-1][0] / 60:.1f} min")
    return "\n".join(lines)


class Load:
    """Rounds of requests to a server.

    Args:
        server: runs.
        lora: the name of its adapter, or None.
    """

    def __init__(self, server: Server, lora: str | None) -> None:
        self._server, self._lora, self.tally = server, lora, Tally()
        self._rng = random.Random(0)
        self._expected = {(None, prompt): self._complete(prompt, None) for prompt in REFERENCES}
        if lora is not None:
            self._expected |= {(lora, prompt): self._complete(prompt, lora) for prompt in REFERENCES}

    def round(self, pool: ThreadPoolExecutor) -> None:
        """Run all kinds side by side, and requests to the adapter after them."""
        work: list[Callable[[], None]] = [
            lambda prompt=prompt: self._reference(prompt, None) for prompt in REFERENCES
        ]
        for _ in range(4):
            length, tokens = self._rng.randint(1, 400), self._rng.randint(1, 40)
            work.append(lambda length=length, tokens=tokens: self._chat(length, tokens))
        work += [self._structured, self._disconnect, self._disconnect]
        work += [lambda one=one: self._malformed(*one) for one in self._rng.sample(MALFORMED, 2)]
        self._rng.shuffle(work)
        self._run(pool, work)
        if self._lora is not None:
            self._run(
                pool, [lambda prompt=prompt: self._reference(prompt, self._lora) for prompt in REFERENCES]
            )

    def _run(self, pool: ThreadPoolExecutor, work: Sequence[Callable[[], None]]) -> None:
        for future in [pool.submit(one) for one in work]:
            try:
                future.result()
            except (httpx.HTTPError, AssertionError, KeyError, ValueError) as error:
                self.tally.note("failed", f"{type(error).__name__}: {error}")

    def _complete(self, prompt: str, model: str | None) -> str:
        body = {"model": model or MODEL, "prompt": prompt, "max_tokens": 24, "temperature": 0}
        text: str = self._server.post("/v1/completions", body)["choices"][0]["text"]
        return text

    def _reference(self, prompt: str, model: str | None) -> None:
        text, expected = self._complete(prompt, model), self._expected[model, prompt]
        fault = None if text == expected else f"{len(prompt)} characters: {text!r}, not {expected!r}"
        self.tally.note("reference" if model is None else "lora", fault)

    def _chat(self, length: int, tokens: int) -> None:
        message = {"role": "user", "content": "".join(random.choices(string.ascii_letters, k=length))}
        body = {"messages": [message], "max_tokens": tokens, "ignore_eos": True, "temperature": 0.8}
        used = self._server.post("/v1/chat/completions", body)["usage"]["completion_tokens"]
        self.tally.note("chat", None if used == tokens else f"{used} tokens, not {tokens}")

    def _structured(self) -> None:
        body = {
            "messages": [{"role": "user", "content": "ok?"}],
            "max_tokens": 60,
            "response_format": {"type": "json_schema", "json_schema": {"name": "ok", "schema": SCHEMA}},
        }
        text = self._server.post("/v1/chat/completions", body)["choices"][0]["message"]["content"]
        try:
            fault = None if type(json.loads(text)["ok"]) is bool else text
        except ValueError:
            blanks = sum(letter.isspace() for letter in text)
            fault = None if blanks > 20 else text  # until its tokens ran out
        self.tally.note("structured", fault)

    def _disconnect(self) -> None:
        body = {"model": MODEL, "prompt": "b" * self._rng.randint(1, 300), "max_tokens": 100, "stream": True}
        with self._server.http.stream(
            "POST", "/v1/completions", json=body | {"ignore_eos": True}
        ) as response:
            for _, _line in zip(range(4), response.iter_lines(), strict=False):
                pass
        self.tally.note("disconnect")

    def _malformed(self, path: str, body: Any) -> None:
        status = self._server.http.post(path, json=body).status_code
        self.tally.note("malformed", None if 400 <= status < 500 else f"{body} got {status}")


def soak(
    folder: Path,
    workplace: Path,
    minutes: float,
    kernels: str | None,
    *,
    lora: Path | None = None,
    pace: float = PACE,
) -> dict[str, Any]:
    """Serve a checkpoint under load.

    Args:
        folder: the checkpoint.
        workplace: an empty folder for the server's log and caches.
        minutes: how long; the start doesn't count.
        kernels: ``MSZOO_KERNELS``; None has vLLM's own model answer.
        lora: the folder of an adapter that is served beside.
        pace: how many rounds begin in a minute at most after the warm-up; 0 is as many as can be.

    Returns:
        What was done, what was wrong, the memory's slope and its samples; ``good`` says whether it passes.
    """
    options = ["--max-model-len", "512", "--max-num-seqs", "16", "--max-num-batched-tokens", "512"]
    # A KV cache counts where a block was used once: a small one is all used after some minutes.
    options += ["--gpu-memory-utilization", "0.2", "--num-gpu-blocks-override", "128"]
    if lora is not None:
        options += ["--enable-lora", "--lora-modules", f"soak={lora}"]
    who = {"MSZOO_DISABLE": "1"} if kernels is None else {"MSZOO_KERNELS": kernels}
    environ = who | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    warm = WARM_UP if minutes > WARM_UP else minutes / 2
    with running_server(folder, workplace, *options, **environ) as server:
        load = Load(server, None if lora is None else "soak")
        memory = Memory(server.group.pid)
        memory.start()
        begin, rounds = time.monotonic(), 0
        due = begin + warm * 60
        with ThreadPoolExecutor(16) as pool:
            while time.monotonic() - begin < minutes * 60 and server.group.exit_status() is None:
                load.round(pool)
                rounds += 1
                if pace and time.monotonic() > begin + warm * 60:
                    due += 60 / pace
                    time.sleep(max(0.0, due - time.monotonic()))
        memory.end()
        ended = server.group.exit_status()
        if ended is not None:
            load.tally.wrong.append(f"the server ended with status {ended}")
        served = [line.split("mszoo: ", 1)[1] for line in server.log().splitlines() if " answers (" in line]
    seen = [sample for sample in memory.samples if sample[0] >= warm * 60]
    steep = slope(seen)
    each = {
        f"{name} {pid}": slope([(at, {pid: found.get(pid, 0)}) for at, found in seen])
        for pid, name in memory.names.items()
    }
    return {
        "minutes": minutes,
        "kernels": kernels,
        "served": served,
        "pace": pace,
        "rounds": rounds,
        "done": dict(load.tally.done),
        "wrong": load.tally.wrong,
        "warm_up_minutes": warm,
        "mib_a_minute": steep,
        "mib_a_minute_of": each,
        "good": not load.tally.wrong and (minutes <= WARM_UP or steep <= STEEPEST),
        "samples": memory.samples,
    }


def report(result: dict[str, Any]) -> str:
    """Return a result for people."""
    done = ", ".join(f"{count} {kind}" for kind, count in sorted(result["done"].items()))
    each = ", ".join(f"{name} {steep:+.2f}" for name, steep in result["mib_a_minute_of"].items())
    lines = [
        f"{'; '.join(result['served']) or 'vLLM alone answers'}",
        f"{result['rounds']} rounds in {result['minutes']:g} minutes: {done}",
        f"{len(result['wrong'])} wrong" + "".join(f"\n  {fault}" for fault in result["wrong"][:20]),
        f"memory after {result['warm_up_minutes']:g} minutes: {result['mib_a_minute']:+.2f} MiB a minute",
        f"  of each process: {each}",
        plot(result["samples"]) if result["samples"] else "",
        "good" if result["good"] else "NOT GOOD",
    ]
    return "\n".join(lines)


def main() -> int:
    """Run one soak and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    by = parser.add_mutually_exclusive_group()
    by.add_argument("--kernels", choices=("cpu", "mindspore"), default="cpu")
    by.add_argument("--alone", action="store_true", help="vLLM's own model answers, to compare with")
    parser.add_argument(
        "--lora", action="store_true", help="requests to a LoRA adapter, too (the tiny model)"
    )
    parser.add_argument(
        "--model", type=Path, help="a checkpoint with a tokenizer; a tiny one is made without"
    )
    parser.add_argument(
        "--pace",
        type=float,
        default=PACE,
        help="rounds that begin in a minute after the warm-up; 0: as many as can be",
    )
    parser.add_argument("--json", action="store_true", help="print the result for programs, samples included")
    arguments = parser.parse_args()
    if arguments.minutes <= 0 or arguments.pace < 0 or (arguments.lora and arguments.model):
        parser.error(
            "--minutes is above 0, --pace no less, and --lora has an adapter for the tiny model alone"
        )
    with tempfile.TemporaryDirectory() as place:
        folder, lora = arguments.model, None
        if folder is None:
            folder = make_text_checkpoint(Path(place, "model"), max_position_embeddings=1024)
        if arguments.lora:
            lora = make_lora(Path(place, "lora"), 1)
        workplace = Path(place, "work")
        workplace.mkdir()
        kernels = None if arguments.alone else arguments.kernels
        result = soak(folder, workplace, arguments.minutes, kernels, lora=lora, pace=arguments.pace)
    print(json.dumps(result) if arguments.json else report(result))
    return 0 if result["good"] else 1


if __name__ == "__main__":
    sys.exit(main())
