"""Runs an engine in processes of its own, for what one process can't show: several ranks.

``main`` runs there: it reads a job from standard input and writes the answers to the file that its argument names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mszoo.conformance.engines import encode, widest_dtype
from mszoo.conformance.processor import attention_options


def run_fresh(
    folder: Path,
    architecture: str,
    prompts: list[list[int]],
    tokens: int | None,
    options: dict[str, Any],
    result: Path,
) -> dict[str, Any]:
    """Answer prompts in a fresh engine; fails with its last output if it doesn't start.

    Args:
        folder: the checkpoint.
        architecture: the qualified name of the adapter that has to serve.
        prompts: token ids.
        tokens: how many to generate for each; None encodes them, with options of a pooling engine.
        options: of ``vllm.LLM``.
        result: the file to write.

    Returns:
        ``answers``, the generated token ids (or the hidden states) of each prompt, and ``workers``, who served in
        each rank.
    """
    job: dict[str, Any] = {"model": str(folder), "prompts": prompts, "tokens": tokens}
    served = {"hf_overrides": {"architectures": [architecture]}, "dtype": widest_dtype()}
    options = served | options
    job["options"] = attention_options(folder, options["dtype"]) | options
    cores = sorted(os.sched_getaffinity(0))
    environ = {
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # to ask the workers who serves
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": f"{cores[0]}|{cores[-1]}",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "PYTHONPATH": os.pathsep.join(item for item in sys.path if item),
    }
    process = subprocess.run(
        [sys.executable, "-c", "from mszoo.conformance.fresh import main; main()", str(result)],
        input=json.dumps(job),
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if process.returncode:
        tail = "\n".join(process.stderr.splitlines()[-20:])
        raise AssertionError(f"the engine ended with status {process.returncode}:\n{tail}")
    answers: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return answers


def look(model: Any) -> dict[str, Any]:
    """Say who serves; runs inside each worker."""
    candidate = getattr(model, "candidate", None)
    return {"adapter": getattr(candidate, "qualified_name", None), "forwards": getattr(model, "forwards", 0)}


def main() -> None:
    """Answer the job on standard input."""
    from mszoo.conformance.seam import LLM, SamplingParams

    job = json.load(sys.stdin)
    defaults = {
        "skip_tokenizer_init": True,
        "enforce_eager": True,
        "max_model_len": 256,
        "max_num_seqs": 8,
        "seed": 0,
    }
    pooled = job["tokens"] is None
    llm = LLM(job["model"], **(defaults | job["options"]))
    if pooled:
        answers = [states.tolist() for states in encode(llm, job["prompts"])]
    else:
        sampling = SamplingParams(temperature=0, max_tokens=job["tokens"], ignore_eos=True, detokenize=False)
        inputs = [{"prompt_token_ids": prompt} for prompt in job["prompts"]]
        outputs = llm.generate(inputs, sampling, use_tqdm=False)
        answers = [list(output.outputs[0].token_ids) for output in outputs]
    result = {"workers": llm.apply_model(look), "answers": answers}
    Path(sys.argv[1]).write_text(json.dumps(result), encoding="utf-8")
