"""Results of bench runs that never ran, for the tests of what is made of them."""

from __future__ import annotations

from mszoo.adapters.vllm.cli.bench.job import MINDSPORE, Answerer, Outputs, Result, Workload

WRAPPER = "mszoo.adapters.vllm.models.wrapper.MindSporeModel"
OURS = Answerer(
    ("mszoo.adapters.vllm.models.wrapper.LlamaForCausalLM", WRAPPER, "torch.nn.modules.module.Module"),
    "native.LlamaForCausalLM",
    "mszoo.models.llama:LlamaForCausalLM",
    {"rms_norm": "cpu", "linear": "cpu", "rotary": "mindspore"},
    "0123456789ab",
    321,
)
THEIRS = Answerer(("vllm.model_executor.models.llama.LlamaForCausalLM", "torch.nn.modules.module.Module"))
HERE = {"cpu": "Some CPU", "cores": 2, "load": 0.25}
WORKLOAD = Workload("/models/some", "float32", (1, 8), new=11)


def outputs(answers=((3, 4, 5), (6, 7, 8)), gap=1.0, scores=(-1.0, -2.0, -3.0)):
    """Outputs whose every token leads the next token id by `gap`."""
    nearest = [[[(token, -1.0), (token + 1, -1.0 - gap)] for token in answer] for answer in answers]
    return Outputs([list(answer) for answer in answers], nearest, list(scores))


def result(side=MINDSPORE, dtype="float32", speed=1.0, **fields):
    defaults = {
        "answerer": OURS if side == MINDSPORE else THEIRS,
        "dtype": dtype,
        "versions": {"vllm": "0.32.0", "torch": "2.13.0+cpu", "mindspore": "2.10.0", "mszoo": "0.1.0"},
        "start": 20 / speed,
        "first_token": 0.05 / speed,
        "prefill": 0.5 / speed,
        "decode": [1.0 / speed, 2.0 / speed],
        "peak_rss": 1000.0,
        "outputs": outputs(),
    }
    return Result(**(defaults | fields))
