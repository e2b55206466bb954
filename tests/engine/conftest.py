"""Tiny checkpoints and real vLLM engines, shared by the tests of a module."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mszoo.conformance.processor import attention_options

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

TINY = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not _is_tried_elsewhere(item)]
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.engine)


def _is_tried_elsewhere(item: pytest.Item) -> bool:
    """Whether a conformance test would start an engine for what other tests show."""
    if "TestLlama::test_parallel[tensor" in item.nodeid:  # two ranks; test_inherited has Llama on them
        return True
    # Native models have their code in common: what it does in an engine, Llama and Qwen3 show.
    tiers = [mark.args[0] for mark in item.iter_markers("mszoo_tier")]
    return "engine" in tiers and ("TestMistral::" in item.nodeid or "TestQwen2::" in item.nodeid)


@pytest.fixture
def engine_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What engines of this process log: vLLM's loggers hand on nothing, and write where stdout was when it came."""
    logger = logging.getLogger("vllm")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def make_checkpoint(folder: Path, model_type: str, **fields: Any) -> Path:
    """Write a random model as a Hugging Face folder; the same fields give the same weights."""
    import torch

    import transformers

    config = transformers.AutoConfig.for_model(model_type, **(TINY | fields))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Wide enough that greedy tokens have no near ties, norms around 1 as in trained models.
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.08)
    model.save_pretrained(folder)
    return folder


@contextlib.contextmanager
def running_engine(folder: Path, **options: Any) -> Iterator[Any]:
    """Run vLLM's engine in this process on a checkpoint, and take it down completely."""
    from vllm import LLM

    defaults: dict[str, Any] = {
        "skip_tokenizer_init": True,
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 256,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 256,
        "num_gpu_blocks_override": 64,  # enough for all of them; a whole GiB of zeros takes half a second
        "seed": 0,
    }
    # vLLM collects garbage at every turn of a start, which takes seconds among the million objects that stay. Set
    # aside, they cost nothing; vLLM's shutdown takes them back.
    gc.freeze()
    asked = defaults | options
    llm = LLM(str(folder), **(attention_options(Path(folder), asked["dtype"]) | asked))
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines run in the test's process, so that tests can look inside the worker."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


@pytest.fixture(autouse=True)
def deepseek_keeps_its_name() -> Iterator[None]:
    """vLLM calls transformers' class of DeepSeek-V3's config as it calls Kimi-K2's, once it has read one of these.

    By that name transformers knows how checkpoints call experts.
    """
    yield
    module = sys.modules.get("transformers.models.deepseek_v3.configuration_deepseek_v3")
    if module is not None:
        module.DeepseekV3Config.model_type = "deepseek_v3"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a maker of tiny checkpoints; equal arguments give the same folder."""
    made: dict[str, Path] = {}

    def make(model_type: str, **fields: Any) -> Path:
        key = repr((model_type, sorted(fields.items())))
        if key not in made:
            made[key] = make_checkpoint(tmp_path_factory.mktemp(model_type), model_type, **fields)
        return made[key]

    return make


def served_by(llm: Any) -> dict[str, Any]:
    """Say, from inside the worker, what answers: the wrapper's class, the adapter, the kernels, its steps."""

    def look(model: Any) -> dict[str, Any]:
        return {
            "wrapper": [base.__qualname__ for base in type(model).__mro__],
            "adapter": getattr(getattr(model, "candidate", None), "qualified_name", None),
            "kernels": dict(getattr(getattr(model, "kernels", None), "sets", {})),
            "forwards": getattr(model, "forwards", 0),
        }

    return llm.apply_model(look)[0]


def assert_mindspore(llm: Any, adapter: str, kernel_set: str) -> int:
    """Assert that our adapter answers with this kernel set for every op; return its steps so far."""
    seen = served_by(llm)
    assert "MindSporeModel" in seen["wrapper"]
    assert seen["adapter"] == adapter
    assert set(seen["kernels"].values()) == {kernel_set}
    return seen["forwards"]


def packs(dtype: str) -> bool:
    """Return whether oneDNN has a product of this dtype on this processor; layers run op by op without one."""
    import torch

    from mszoo.layers.seam_cpu import pack

    try:
        pack(torch.zeros(64, 64, dtype=getattr(torch, dtype)))
    except RuntimeError:
        return False
    return True


#: Options of an engine whose logits :func:`worst_logit` compares.
RAW_LOGITS = {"max_logprobs": -1, "logprobs_mode": "raw_logits"}
_PROMPTS = [[5, 17, 99, 201, 3, 44, 180], list(range(3, 100)), [7]]


def worst_logit(llm: Any, folder: Path, reference: Any = None) -> float:
    """Return the largest difference of logits, of prompts and answers, from Hugging Face in float32.

    Args:
        llm: the engine, with RAW_LOGITS.
        folder: the checkpoint.
        reference: Hugging Face's model; None loads it from ``folder``.
    """
    import torch

    from transformers import AutoModelForCausalLM
    from vllm import SamplingParams

    sampling = SamplingParams(
        temperature=0, max_tokens=4, ignore_eos=True, detokenize=False, logprobs=-1, prompt_logprobs=-1
    )
    outputs = llm.generate([{"prompt_token_ids": p} for p in _PROMPTS], sampling, use_tqdm=False)
    reference = reference or AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return worst_of(_PROMPTS, outputs, reference)


def worst_of(prompts: list[list[int]], outputs: list[Any], reference: Any) -> float:
    """Return the largest difference of logits that an engine with RAW_LOGITS gave, from Hugging Face in float32.

    Args:
        prompts: what was asked.
        outputs: what came back, with all logits of prompts and answers.
        reference: Hugging Face's model.
    """
    import torch

    worst = 0.0
    for prompt, output in zip(prompts, outputs, strict=True):
        completion = output.outputs[0]
        with torch.no_grad():
            expected = reference(torch.tensor([[*prompt, *completion.token_ids]])).logits[0][:-1]
        ours = [row for row in output.prompt_logprobs if row] + list(completion.logprobs)
        logits = torch.tensor([[row[token].logprob for token in range(len(row))] for row in ours])
        assert logits.shape == expected.shape
        # vLLM 0.23 gives a prompt's log-probabilities whatever logprobs_mode says; an answer's are logits.
        are_normalized = (logits.logsumexp(-1, keepdim=True).abs() < 1e-4).expand_as(logits)
        expected = torch.where(are_normalized, expected.log_softmax(-1), expected)
        worst = max(worst, (logits - expected).abs().max().item())
    return worst


def give_routers_a_bias(folder: Path) -> None:
    """Make the biases of a checkpoint's routers such that they change who is chosen."""
    import torch

    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    biases = [name for name in weights if name.endswith("e_score_correction_bias")]
    for index, name in enumerate(biases):
        generator = torch.Generator().manual_seed(index)
        weights[name] = torch.rand(weights[name].shape, generator=generator)
    if biases:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
