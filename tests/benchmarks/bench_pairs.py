"""How fast mszoo's model generates beside vLLM's own, both in one process, on a machine that others use too.

    python tests/benchmarks/bench_pairs.py FOLDER [--dtype bfloat16] [--rounds 12] [--theirs-first]
                                           [--draft FOLDER] [--method eagle3]

``mszoo bench`` gives each side processes of its own, between which one and the same kernel's time can differ by a
tenth and more. Here both models are loaded into one process and take turns at random tokens, load by load, so that
threads, memory and what else the machine does are the same. Who was loaded first matters a little, so run it both
ways. Each figure is a median over rounds of tokens a second, and the median of the rounds' ratios, with the worst
and the best of them. vLLM's default, compiled mode; each side says from inside the process who answers. vLLM's own
model is loaded by another name of its architecture, which no record has; so is its draft model or EAGLE-3 head,
where there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

OURS, THEIRS = "mszoo", "vLLM's own"
#: Tokens of a prompt whose prefill is timed, and of those that are decoded; how many are decoded.
PREFILL, PROMPT, DECODED = 512, 16, 32
#: How many tokens a draft model proposes.
PROPOSED = 3


def load(folder: str, dtype: str, side: str, draft: str | None = None, method: str = "") -> Any:
    """Start an engine of this process on a side's model, and say who answers."""
    from vllm import LLM

    overrides: dict[str, Any] = {}
    if side == THEIRS:
        overrides = {"architectures": [_own_name(folder)]}
        draft = None if draft is None else _renamed(draft)
    speculative = {"method": method, "model": draft, "num_speculative_tokens": PROPOSED}
    llm = LLM(
        folder,
        dtype=dtype,
        hf_overrides=overrides,
        speculative_config=None if draft is None else speculative,
        max_model_len=PREFILL + 64,
        max_num_seqs=8,
        max_num_batched_tokens=2048,
        enable_prefix_caching=False,
        skip_tokenizer_init=True,
        gpu_memory_utilization=0.2,
        seed=0,
    )

    def name(model: Any) -> str:
        return getattr(getattr(model, "candidate", None), "qualified_name", type(model).__name__)

    (who,) = llm.apply_model(name)
    print(f"{side}: {who} answers", flush=True)
    if draft is not None:
        (who,) = llm.collective_rpc(lambda worker: name(worker.model_runner.drafter.model))
        print(f"{side}: {who} proposes", flush=True)
    return llm


def _own_name(folder: str) -> str:
    """Register vLLM's own model of a folder's architecture by another name, and return that."""
    from vllm import ModelRegistry
    from vllm.transformers_utils.config import get_config

    (architecture, *_) = get_config(folder, trust_remote_code=False).architectures
    ModelRegistry.register_model(f"Own{architecture}", ":".join(_own_place(architecture)))
    return f"Own{architecture}"


def _renamed(folder: str) -> str:
    """Return a folder of links to a draft model's files, whose config names vLLM's own model."""
    made = Path(tempfile.mkdtemp(prefix="draft-"))
    for file in Path(folder).iterdir():
        (made / file.name).symlink_to(file.resolve())
    (made / "config.json").unlink()
    config = json.loads((Path(folder) / "config.json").read_text())
    (made / "config.json").write_text(json.dumps(config | {"architectures": [_own_name(folder)]}))
    return str(made)


def _own_place(architecture: str) -> tuple[str, str]:
    """Return module and class of vLLM's own model of an architecture."""
    from vllm.model_executor.models import registry

    module, name = registry._VLLM_MODELS[architecture]
    return f"vllm.model_executor.models.{module}", name


def seconds(llm: Any, texts: int, tokens: int, generated: int) -> float:
    """Return how long random texts of so many tokens take."""
    from vllm import SamplingParams

    vocabulary = llm.llm_engine.vllm_config.model_config.get_vocab_size()
    prompts = [{"prompt_token_ids": random.choices(range(5, vocabulary), k=tokens)} for _ in range(texts)]
    sampling = SamplingParams(max_tokens=generated, ignore_eos=True, temperature=0, detokenize=False)
    start = time.perf_counter()
    llm.generate(prompts, sampling, use_tqdm=False)
    return time.perf_counter() - start


def decode(llm: Any, texts: int) -> float:
    """Return the tokens a second that so many sequences get in their decode steps."""
    whole = seconds(llm, texts, PROMPT, DECODED + 1)
    return texts * DECODED / (whole - seconds(llm, texts, PROMPT, 1))


LOADS = {
    f"prefill, {PREFILL} tokens": lambda llm: PREFILL / seconds(llm, 1, PREFILL, 1),
    "decode, batch 1": lambda llm: decode(llm, 1),
    "decode, batch 8": lambda llm: decode(llm, 8),
}


def main() -> None:
    """Read the command line, measure, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--draft", help=f"a draft model or head, which proposes {PROPOSED} tokens")
    parser.add_argument("--method", default="draft_model", choices=("draft_model", "eagle3"))
    parser.add_argument("--theirs-first", action="store_true")
    given = parser.parse_args()
    order = [THEIRS, OURS] if given.theirs_first else [OURS, THEIRS]
    engines = {side: load(given.folder, given.dtype, side, given.draft, given.method) for side in order}
    found: dict[str, dict[str, list[float]]] = {name: {side: [] for side in order} for name in LOADS}
    for number in range(-1, given.rounds):  # the first one warms up
        for name, measured in LOADS.items():
            for side in order[:: 1 if number % 2 else -1]:
                speed = measured(engines[side])
                if number >= 0:
                    found[name][side].append(speed)
    for name, of_sides in found.items():
        ours, theirs = (statistics.median(of_sides[side]) for side in (OURS, THEIRS))
        ratios = sorted(a / b for a, b in zip(of_sides[OURS], of_sides[THEIRS], strict=True))
        print(
            f"{name:22}{ours:9.1f} /{theirs:9.1f} = {ours / theirs:.2f}; pairs {statistics.median(ratios):.2f}"
            f" ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
    }
    main()
