"""What the bridge itself costs: one exchange of a tensor, one decoder layer, one decision.

    python tests/benchmarks/bench_bridge.py [--repeats 5] [--json]

* **exchange**: a tensor that goes to the other framework for the first time, and again.
* **layer**: a decode step of a Llama of 2 and of 32 layers that are so small (64 wide) that the kernels take next
  to nothing; the growth per layer is what a layer costs beside arithmetic. vLLM's own model shows what is usual.
* **look-up**: one decision, with 10, 300 and 10,000 registered adapters.

Engines run in fresh processes, one after another. Figures are medians of the repeats, with smallest and largest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

LAYERS = (2, 32)
ADAPTERS = (10, 300, 10_000)
SIDES = {
    "mszoo, compiled layer": ({}, False),
    "mszoo, op by op": ({}, True),
    "vLLM's own, compiled": ({"MSZOO_DISABLE": "1"}, False),
    "vLLM's own, eager": ({"MSZOO_DISABLE": "1"}, True),
}
ENGINE = """
import json, sys, time
from vllm import LLM, SamplingParams
folder, eager, repeats = sys.argv[1], sys.argv[2] == "True", int(sys.argv[3])
llm = LLM(model=folder, dtype="float32", enforce_eager=eager, max_model_len=256, max_num_seqs=1,
          max_num_batched_tokens=256, enable_prefix_caching=False, skip_tokenizer_init=True)
owner = llm.apply_model(lambda model: getattr(getattr(model, "candidate", None), "qualified_name", None))[0]
def seconds(tokens):
    options = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
    start = time.perf_counter()
    llm.generate([{"prompt_token_ids": [1, 2, 3]}], options, use_tqdm=False)
    return time.perf_counter() - start
seconds(100)
print(json.dumps([owner, [(seconds(201) - seconds(1)) / 200 for _ in range(repeats)]]))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = {
        "exchange": exchange(options.repeats),
        "layer": {name: layer(*side, options.repeats) for name, side in SIDES.items()},
        "look-up": {str(count): look_up(count, options.repeats) for count in ADAPTERS},
    }
    if options.json:
        print(json.dumps(report, indent=2))
        return
    for group, figures in report.items():
        print(f"\n{group}, microseconds")
        for name, values in figures.items():
            median = statistics.median(values)
            print(f"  {name:44} {median:10.2f}   {min(values):.2f} to {max(values):.2f}")


def timed(call: Callable[[], object], repeats: int, count: int = 2000) -> list[float]:
    """Return microseconds a call, for each repeat."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(count):
            call()
        found.append((time.perf_counter() - start) / count * 1e6)
    return found


def exchange(repeats: int) -> dict[str, list[float]]:
    """Time the exchange of a [8, 1024] float32 tensor."""
    import torch

    from mszoo.kernels import runtime
    from mszoo.kernels.exchange import ParameterView, to_mindspore, to_torch

    runtime.prepare("cpu")
    tensor = torch.ones(8, 1024)
    there, parameter = to_mindspore(tensor), ParameterView()
    parameter.of(tensor)
    return {
        "to MindSpore, first time": timed(lambda: to_mindspore(tensor), repeats),
        "back to torch": timed(lambda: to_torch(there), repeats),
        "to torch, first time (of an op's result)": timed(lambda: to_torch(there + there), repeats),
        "  of which the op": timed(lambda: there + there, repeats),
        "a weight": timed(lambda: parameter.of(tensor), repeats),
    }


def layer(environ: dict[str, str], eager: bool, repeats: int) -> list[float]:
    """Return the growth of a decode step per layer, in microseconds, for each repeat."""
    steps = []
    for count in LAYERS:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint(count, Path(folder))
            quiet = {
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_LOGGING_LEVEL": "ERROR",
                "HF_HUB_OFFLINE": "1",
            }
            command = [sys.executable, "-c", ENGINE, folder, str(eager), str(repeats)]
            run = subprocess.run(
                command, env={**os.environ, **quiet, **environ}, capture_output=True, text=True, check=True
            )
        owner, seconds = json.loads(run.stdout.splitlines()[-1])
        if (owner is not None) == bool(environ):
            raise SystemExit(f"{owner or 'vLLM itself'} answered")
        steps.append(seconds)
    few, many = steps
    return [(b - a) / (LAYERS[-1] - LAYERS[0]) * 1e6 for a, b in zip(few, many, strict=True)]


def checkpoint(layers: int, folder: Path) -> None:
    """Write a random Llama, 64 wide."""
    import torch

    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def look_up(count: int, repeats: int) -> list[float]:
    """Time one decision of a catalog with ``count`` adapters."""
    from mszoo.registry import ModelAdapter, Suite
    from mszoo.registry.catalog import Catalog
    from mszoo.registry.discovery import Contribution, Discovery, discover
    from mszoo.registry.entry_points import Plugin
    from mszoo.registry.settings import Settings

    plugin = Plugin("generated", "generated", "1.0", "generated")
    models = tuple(ModelAdapter(f"Generated{n}ForCausalLM", "m:M") for n in range(count))
    contribution = Contribution(plugin, Suite("generated"), models)
    nothing = discover(Settings(), [])
    catalog = Catalog(Discovery((contribution,), (), (plugin,), nothing.manager), Settings())
    catalog.decisions()
    return timed(lambda: catalog.decide("Generated7ForCausalLM"), repeats)


if __name__ == "__main__":
    main()
