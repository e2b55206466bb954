"""A real `vllm serve` for the tests: a checkpoint with a tokenizer, the server's life, its answers and metrics."""

from __future__ import annotations

import contextlib
import os
import string
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from mszoo.adapters.vllm.cli.process import ProcessGroup, free_port

from .conftest import make_checkpoint

MODEL = "tiny"
START_LIMIT = 300.0  # seconds; cold caches on a busy machine
SPECIAL_TOKENS = ("<|pad|>", "<|im_start|>", "<|im_end|>")  # ids 0 to 2, as the tiny configuration says
CHAT_TEMPLATE = (
    "{% for tool in tools or [] %}<tool>{{ tool.function.name }}</tool>{% endfor %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_text_checkpoint(folder: Path, model_type: str = "llama", **fields: Any) -> Path:
    """Write a random decoder of bytes, with its tokenizer, whose greedy answers are ASCII without blanks.

    Every token is one character of the text, so equal texts are equal tokens. Where a grammar allows blanks, a
    random model would write them for ever.
    """
    from safetensors.torch import load_file, save_file

    tokenizer = byte_tokenizer()
    make_checkpoint(folder, model_type, vocab_size=len(tokenizer), **fields)
    tokenizer.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    printable = tokenizer.convert_tokens_to_ids(
        list(string.ascii_letters + string.digits + string.punctuation)
    )
    silent = sorted(set(range(len(tokenizer))) - set(printable))
    weights["lm_head.weight"][silent] = 0.0  # the greatest of the others' random logits lies above 0
    for name, weight in weights.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight.mul_(4.0)  # sharp attention, or answers end in one letter for ever
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def byte_tokenizer() -> Any:
    """Return a tokenizer of three special tokens and the 256 bytes, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    symbols = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({symbol: index for index, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    pad, start, end = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=start,
        eos_token=end,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


@dataclass
class Server:
    """A running `vllm serve`.

    Attributes:
        http: a client of its address.
        group: its processes.
        children: command lines of the processes that it started until it was ready.
    """

    http: httpx.Client
    group: ProcessGroup
    children: set[str]

    def log(self) -> str:
        """Return what the server printed so far."""
        return self.group.log.read_text(encoding="utf-8", errors="replace")

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return its response, which must be a success."""
        response = self.http.post(path, json={"model": MODEL} | body)
        assert response.status_code == 200, response.text
        return response.json()

    def metric(self, name: str, **labels: str) -> float:
        """Return one of vLLM's metrics: the sum of the samples of this name that carry these labels."""
        families = text_string_to_metric_families(self.http.get("/metrics").text)
        samples = [
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert samples, f"vLLM reports no {name} {labels}"
        return sum(samples)


@contextlib.contextmanager
def running_server(folder: Path, workplace: Path, *options: str, **environ: str) -> Iterator[Server]:
    """Serve a checkpoint with `vllm serve` and stop it completely.

    Args:
        folder: the checkpoint.
        workplace: an empty folder for the server's log and vLLM's caches, which are cold therefore.
        options: further options of `vllm serve`.
        environ: environment variables on top of ours, whose MSZOO_* are dropped.
    """
    with started_server(folder, workplace, *options, **environ) as server:
        wait_until_ready(server)
        yield server


@contextlib.contextmanager
def started_server(
    folder: Path, workplace: Path, *options: str, by: Sequence[str] = (), **environ: str
) -> Iterator[Server]:
    """Start what :func:`running_server` does, and don't wait for it.

    Args:
        folder, workplace, options, environ: as there.
        by: the command that runs it.
    """
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MSZOO_")}
    own = {
        "VLLM_CACHE_ROOT": str(workplace / "cache"),
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    address = ("--host", "127.0.0.1", "--port", str(port), "--served-model-name", MODEL)
    vllm = Path(sys.executable).with_name("vllm")
    command = [*by, str(vllm), "serve", str(folder), "--dtype", "float32", *address, *options]
    base_url = f"http://127.0.0.1:{port}"
    with (
        ProcessGroup(command, workplace / "server.log", inherited | own | environ) as group,
        # No proxy. And a connection each: a server that answers with status 500 closes it without saying so.
        httpx.Client(
            base_url=base_url, timeout=300, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        ) as http,
    ):
        yield Server(http, group, set())


def wait_until_ready(server: Server) -> None:
    """Wait for the server's health check, and collect the command lines of its processes meanwhile."""
    deadline = time.monotonic() + START_LIMIT
    while True:
        status = server.group.exit_status()
        assert status is None, f"vllm serve ended with status {status}:\n{server.log()[-6000:]}"
        assert time.monotonic() < deadline, f"vllm serve isn't ready:\n{server.log()[-6000:]}"
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(server.group.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    server.children.add(" ".join(child.cmdline()))
        with contextlib.suppress(httpx.TransportError):
            if server.http.get("/health").status_code == 200:
                return
        time.sleep(0.1)
