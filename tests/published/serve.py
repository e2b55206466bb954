"""Run as a script: serve folders in turn in one process, and write what each gave.

Standard input: a list of ``{"row": name, "folder": path, "pools": bool, "suite": a suite's name or ""}``. The
argument names a folder; results of each row go there as ``<number>.npz``, and a line about it to standard output
after ``ROW``.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

from .corpus import LENGTH, PROMPTS

_MARK = "ROW "


def main() -> None:
    """Serve."""
    import numpy

    rows = json.load(sys.stdin)
    results = Path(sys.argv[1])
    for index, row in enumerate(rows):
        try:
            who, values = serve(row)
            numpy.savez(results / f"{index}.npz", *values)
            said = {"who": who}
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"[:2000]}
        print(_MARK + json.dumps({"index": index, "row": row["row"]} | said), flush=True)
    sys.stdout.flush()
    os._exit(0)


def serve(row: dict[str, Any]) -> tuple[str, list[Any]]:
    """Return who answered one row, and the logits or hidden states of each prompt."""
    from vllm import LLM

    options: dict[str, Any] = {
        "skip_tokenizer_init": not row["pools"],
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": LENGTH,
        "max_num_seqs": 4,
        "max_num_batched_tokens": LENGTH,
        "num_gpu_blocks_override": 64,
        "enable_prefix_caching": False,
        "seed": 0,
    }
    architecture = json.loads((Path(row["folder"]) / "config.json").read_text())["architectures"][0]
    task = "classify" if architecture.endswith("ForSequenceClassification") else "token_embed"
    if row["pools"]:
        options |= {"runner": "pooling", "pooler_config": {"task": task}}
    else:
        options |= {"max_logprobs": -1, "logprobs_mode": "raw_logits"}
    if row["suite"]:
        options["hf_overrides"] = {"architectures": [f"{row['suite']}.{architecture}"]}
    # vLLM collects garbage at every turn of a start, which takes seconds among the million objects that stay.
    gc.freeze()
    llm = LLM(row["folder"], **options)
    try:
        values = _pooled(llm, task) if row["pools"] else _logits(llm)
        return llm.apply_model(_look)[0], values
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()


def _look(model: Any) -> str:
    name = getattr(getattr(model, "candidate", None), "qualified_name", None)
    return str(name or f"vLLM's {type(model).__name__}")


def _logits(llm: Any) -> list[Any]:
    import numpy
    from vllm import SamplingParams

    sampling = SamplingParams(
        temperature=0, max_tokens=2, ignore_eos=True, detokenize=False, logprobs=-1, prompt_logprobs=-1
    )
    outputs = llm.generate([{"prompt_token_ids": p} for p in PROMPTS], sampling, use_tqdm=False)
    found: list[Any] = []
    for output in outputs:
        completion = output.outputs[0]
        rows = [row for row in output.prompt_logprobs if row] + list(completion.logprobs)
        found.append(
            numpy.array([[row[token].logprob for token in range(len(row))] for row in rows], "float32")
        )
        found.append(numpy.array([*output.prompt_token_ids, *completion.token_ids]))
    return found


def _pooled(llm: Any, task: str) -> list[Any]:
    import numpy
    from vllm import PoolingParams

    params = PoolingParams(use_activation=False)  # vLLM would scale each to length 1, or to a sum of 1
    inputs = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    outputs = llm.encode(inputs, params, pooling_task=task, use_tqdm=False)
    found: list[Any] = []
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        found += [output.outputs.data.float().numpy(), numpy.array(prompt)]
    return found


if __name__ == "__main__":
    main()
