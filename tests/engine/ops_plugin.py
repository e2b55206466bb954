"""A suite of ops, and a script that runs engines with it, one after the other, and says what its ops did.

As a plugin it gives MindSpore ops that count their calls. Those that OPSDEMO_FIRST names have priority 1.

As a script it reads ``[{"model": folder, "prompts": [token ids], "options": of LLM}, ...]`` from
standard input and writes one result for each to the file that its argument names.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mszoo.registry import LayerAdapter, OpAdapter, Suite, hookimpl

CALLS: Counter[str] = Counter()
NAMES = ("rms_norm", "fused_add_rms_norm", "silu_and_mul", "linear", "embedding", "paged_attention")


@hookimpl
def mszoo_suite() -> Suite:
    return Suite("Ops-demo")


@hookimpl
def mszoo_op_adapters() -> Iterable[OpAdapter]:
    first = os.environ.get("OPSDEMO_FIRST", "").split(",")
    for name in NAMES:
        priority = 1 if name in first else 0
        yield OpAdapter(name, f"mszoo_opsdemo:{name}", "demo", dtypes=["float32"], priority=priority)


@hookimpl
def mszoo_layer_adapters() -> Iterable[LayerAdapter]:
    return [LayerAdapter("vllm:SiluAndMul", "mszoo_opsdemo:SiluAndMul")]


def _counted(name: str) -> Any:
    def op(*args: Any) -> Any:
        from mszoo.kernels import mindspore_set

        CALLS[name] += 1
        return getattr(mindspore_set, name)(*args)

    return op


rms_norm = _counted("rms_norm")
fused_add_rms_norm = _counted("fused_add_rms_norm")
silu_and_mul = _counted("silu_and_mul")
linear = _counted("linear")
embedding = _counted("embedding")
paged_attention = _counted("paged_attention")


class SiluAndMul:
    """vLLM's SiluAndMul, computed by this suite's op."""

    def __init__(self, layer: Any) -> None:
        pass

    def __call__(self, x: Any) -> Any:
        return _counted("silu_and_mul")(x)


def run(job: dict[str, Any]) -> dict[str, Any]:
    import mszoo_opsdemo  # the plugin, not this script
    from vllm import LLM, SamplingParams

    mszoo_opsdemo.CALLS.clear()
    defaults = {"skip_tokenizer_init": True, "dtype": "float32", "max_model_len": 128, "max_num_seqs": 4}
    gc.freeze()
    gc.enable()
    llm = LLM(job["model"], seed=0, num_gpu_blocks_override=64, **(defaults | job["options"]))
    sampling = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, detokenize=False, logprobs=0)
    prompts = [{"prompt_token_ids": prompt} for prompt in job["prompts"]]
    outputs = llm.generate(prompts, sampling, use_tqdm=False)

    def look(model: Any) -> dict[str, Any]:
        return {
            "class": f"{type(model).__module__}:{type(model).__qualname__}",
            "sets": dict(getattr(getattr(model, "kernels", None), "sets", {})),
        }

    result = {
        **llm.apply_model(look)[0],
        "answers": [list(output.outputs[0].token_ids) for output in outputs],
        "logprobs": [output.outputs[0].cumulative_logprob for output in outputs],
        "calls": dict(mszoo_opsdemo.CALLS),
    }
    llm.llm_engine.engine_core.shutdown()
    del llm
    gc.collect()
    return result


if __name__ == "__main__":
    gc.disable()  # until the first engine starts: nothing that is imported becomes garbage
    Path(sys.argv[1]).write_text(json.dumps([run(job) for job in json.load(sys.stdin)]))
