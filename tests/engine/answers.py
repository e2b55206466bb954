"""Run as a script: engines' greedy answers, and who gave them, as JSON, out of a fresh process.

Standard input: by the name of a job, ``{"model": folder, "prompts": [token ids], "max_tokens": count, "options": of
LLM, "lora": [folder or null for each prompt], "imports": [modules to import first], "reload": [folders whose
weights to load afterwards, one after the other], "sleep": [levels to sleep at afterwards, one after the other],
"embed": whether it is an encoder, whose answers are embeddings, "requests": [{"prompt": text, "images": [files],
"videos": [[file of an array of frames, what is said of it or null]]}], "again": whether to ask again afterwards}``.
The argument names the file to write.
"""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

from mszoo.conformance.processor import attention_options

#: Steps of a draft model or head that are kept.
WATCHED = 8


def look(model: Any) -> dict[str, Any]:
    """Say who answers; runs inside the worker."""
    return {
        "classes": [f"{base.__module__}.{base.__qualname__}" for base in type(model).__mro__],
        "adapter": getattr(getattr(model, "candidate", None), "qualified_name", None),
        "kernels": sorted(set(getattr(getattr(model, "kernels", None), "sets", {}).values())),
        "forwards": getattr(model, "forwards", 0),
        "calls": getattr(getattr(model, "network", None), "calls", {}),
        "compiled": [
            module.compiled.runs
            for module in model.modules()
            if hasattr(module, "attention") and hasattr(module, "compiled")
        ],
        "started_by": type(multiprocessing.current_process()).__name__,
        "layers": {
            module.swap.target: module.swap.calls for module in model.modules() if hasattr(module, "swap")
        },
    }


def watch_draft(worker: Any) -> None:
    """Keep what proposes tokens computes in its first steps; runs inside the worker."""
    import torch

    draft = _draft_of(worker)
    if draft is None:
        return
    seen: list[list[float]] = []
    compute_logits = draft.compute_logits

    def keep(hidden_states: Any, *arguments: Any) -> Any:
        logits = compute_logits(hidden_states, *arguments)
        if len(seen) < 2 * WATCHED:
            for one in (hidden_states, logits):
                last = (one[-1] if isinstance(one, list) else one)[
                    -1
                ].float()  # of Medusa's heads the last one
                seen.append(torch.where(last.isinf(), 0, last).tolist())
        return logits

    draft.compute_logits = keep
    worker.seen_of_draft = seen


def look_at_draft(worker: Any) -> dict[str, Any] | None:
    """Say what proposes tokens to the model, or None; runs inside the worker."""
    draft = _draft_of(worker)
    return None if draft is None else look(draft) | {"computed": worker.seen_of_draft}


def _draft_of(worker: Any) -> Any:
    return getattr(getattr(worker.model_runner, "drafter", None), "model", None)


def reload(worker: Any, folder: str) -> None:
    """Load other weights; runs inside the worker, whose own method for it vllm-ascend's lacks."""
    worker.model_runner.reload_weights(weights_path=folder)


def main() -> None:
    # Nothing that is imported becomes garbage, and looking for it takes as long as a third of the imports.
    gc.disable()
    importlib.import_module("vllm")
    jobs = json.load(sys.stdin)
    for job in jobs.values():
        for module in job.get("imports", ()):
            importlib.import_module(module)
    gc.freeze()
    gc.enable()
    Path(sys.argv[1]).write_text(json.dumps({name: answer(job) for name, job in jobs.items()}))
    leave()


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Run one job's engine, and take it down."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    llm = LLM(job["model"], **job["options"])
    sampling = SamplingParams(
        temperature=0, max_tokens=job["max_tokens"], ignore_eos=True, detokenize=False, logprobs=0
    )
    prompts = [{"prompt_token_ids": prompt} for prompt in job.get("prompts", ())]
    prompts += [_with_images(**request) for request in job.get("requests", ())]
    adapters = job.get("lora") or []
    requests = [
        LoRARequest(name, index + 1, name) if name else None for index, name in enumerate(adapters)
    ] or None
    module = importlib.import_module("answers")
    if job.get("embed"):
        outputs = llm.embed(prompts, use_tqdm=False)
        result = {"answers": [output.outputs.embedding for output in outputs]}
        return result | {"workers": llm.apply_model(module.look)}
    llm.collective_rpc(module.watch_draft)
    work = {"prompts": prompts, "sampling_params": sampling, "use_tqdm": False, "lora_request": requests}
    outputs = llm.generate(**work)
    again = tokens_of(llm.generate(**work)) if job.get("again") else []
    reloaded, woken = [], []
    for folder in job.get("reload", ()):
        llm.collective_rpc(module.reload, args=(folder,))
        llm.reset_prefix_cache()
        reloaded.append(tokens_of(llm.generate(**work)))
    for level in job.get("sleep", ()):
        llm.sleep(level)
        llm.wake_up()
        if level == 2:  # the weights are gone
            llm.collective_rpc(module.reload, args=(job["model"],))
        woken.append(tokens_of(llm.generate(**work)))
    statistics = [] if job["options"].get("disable_log_stats", True) else llm.get_metrics()
    result = {
        "again": again,
        "reloaded": reloaded,
        "woken": woken,
        "metrics": {metric.name: metric.value for metric in statistics if hasattr(metric, "value")},
        # By its module's name: __main__ is another script in spawned processes, and forked ones can't pickle it.
        "workers": llm.apply_model(module.look),
        "drafts": llm.collective_rpc(module.look_at_draft),
        "answers": tokens_of(outputs),
        "logprobs": [output.outputs[0].cumulative_logprob for output in outputs],
    }
    llm.llm_engine.engine_core.shutdown()
    del llm
    gc.collect()
    return result


def _with_images(
    prompt: str, images: list[str], videos: list[tuple[str, Any]] | None = None
) -> dict[str, Any]:
    """Return a request as vLLM takes it."""
    import numpy as np
    from PIL import Image

    shown: dict[str, list[Any]] = {
        "image": [
            Image.fromarray(np.load(file)) if file.endswith(".npy") else Image.open(file) for file in images
        ],
        "video": [np.load(file) if about is None else (np.load(file), about) for file, about in videos or []],
    }
    return {"prompt": prompt, "multi_modal_data": {kind: items for kind, items in shown.items() if items}}


def tokens_of(outputs: list[Any]) -> list[list[int]]:
    """Return the token ids of vLLM's outputs."""
    return [list(output.outputs[0].token_ids) for output in outputs]


def leave() -> NoReturn:
    """End this process without Python's own end, which takes seconds among all that vLLM has imported."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def run(job: dict[str, Any], result: Path, **environment: str) -> dict[str, Any]:
    """Run a job in a fresh process and return what it wrote, and its log as ``log``."""
    return run_all({"": job}, result, **environment)[""]


def run_all(jobs: dict[str, dict[str, Any]], result: Path, **environment: str) -> dict[str, dict[str, Any]]:
    """Run jobs in turn in one fresh process, as :func:`run` runs one; the log is that of all."""
    defaults = {
        "skip_tokenizer_init": True,
        "dtype": "float32",
        "max_model_len": 128,
        "max_num_seqs": 4,
        "num_gpu_blocks_override": 64,
        "seed": 0,
    }
    complete = {
        name: {"max_tokens": 8} | job | {"options": defaults | job.get("options", {})}
        for name, job in jobs.items()
    }
    for job in complete.values():
        needed = attention_options(Path(job["model"]), job["options"]["dtype"])
        job["options"] = needed | job["options"]
    # Engines that ran in this process have set how workers start; the job's process decides that itself.
    inherited = {name: value for name, value in os.environ.items() if name != "VLLM_WORKER_MULTIPROC_METHOD"}
    process = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), str(result)],
        input=json.dumps(complete),
        env=inherited | {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=max(600, 60 * len(jobs)),
    )
    assert process.returncode == 0, process.stderr[-4000:] + process.stdout[-2000:]
    log = process.stdout + process.stderr
    return {name: found | {"log": log} for name, found in json.loads(result.read_text()).items()}


if __name__ == "__main__":
    main()
