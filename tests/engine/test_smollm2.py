"""A trained model, SmolLM2: greedy answers to chat prompts equal those of vLLM's own Llama, token by token.

Ours run as they are served by default, in compiled layers or graphs; vLLM's own runs eagerly, as the reference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mszoo.adapters.vllm.cli.demo.folder import make

from . import answers
from .conftest import assert_mindspore, running_engine

MAX_TOKENS = 64
OPTIONS = {
    "skip_tokenizer_init": True,
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 256,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 512,
    "seed": 0,
}
PROMPTS = [
    "What is the capital of France?",
    "Write a Python function that adds two numbers.",
    "Why is the sky blue?",
    "List three kinds of fruit.",
    "Tell me a very short story about a fox.",
    "Translate to French: good morning.",
    "What is 7 times 8?",
    "Explain what a computer network is, in two sentences.",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "smollm2"
    assert make(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def prompts(tokenizer) -> list[list[int]]:
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        for prompt in PROMPTS
    ]


@pytest.fixture(scope="module")
def own(folder, prompts, tmp_path_factory) -> dict[str, Any]:
    """The answers of vLLM's own model, and what its worker says about it."""
    job = {"model": str(folder), "prompts": prompts, "max_tokens": MAX_TOKENS, "options": OPTIONS}
    result = tmp_path_factory.mktemp("own") / "answers.json"
    return answers.run(job, result, MSZOO_DISABLE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0")


def test_the_reference_is_vllms_own_model(own) -> None:
    (worker,) = own["workers"]
    assert worker["classes"][0] == "vllm.model_executor.models.llama.LlamaForCausalLM"
    assert not any("mszoo" in name for name in worker["classes"])
    assert (worker["adapter"], worker["kernels"], worker["forwards"]) == (None, [], 0)
    assert [len(answer) for answer in own["answers"]] == [MAX_TOKENS] * len(PROMPTS)


@pytest.mark.parametrize("kernel_set", ["cpu", pytest.param("mindspore", marks=pytest.mark.long)])
def test_greedy_answers_equal_vllms_own(kernel_set, folder, tokenizer, prompts, own, monkeypatch) -> None:
    from vllm import SamplingParams

    monkeypatch.setenv("MSZOO_KERNELS", kernel_set)
    sampling = SamplingParams(temperature=0, max_tokens=MAX_TOKENS, ignore_eos=True, detokenize=False)
    with running_engine(folder, **OPTIONS | {"enforce_eager": False}) as llm:
        outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], sampling, use_tqdm=False)
        assert assert_mindspore(llm, "native.LlamaForCausalLM", kernel_set) >= MAX_TOKENS
    tokens = [list(output.outputs[0].token_ids) for output in outputs]
    assert tokens == own["answers"]
    answer = tokenizer.decode(tokens[0]).split(tokenizer.eos_token)[0]
    assert "Paris" in answer
