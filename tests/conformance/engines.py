"""Runs vLLM's engine in the test's own process, one at a time, so that tests see inside the worker."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mszoo.conformance.base import catalog
from mszoo.conformance.processor import attention_options

#: Tokens per block of the KV cache that engines ask for: vLLM's CPU attention wants a multiple of 32. It may take
#: another number, as for attention on a latent cache.
BLOCK = 32
STEP = 64  # tokens per step of an engine that prefills in chunks
LENGTH = 256


@dataclass(frozen=True)
class Answer:
    """What the engine gave for one prompt.

    Attributes:
        prompt: token ids.
        tokens: the generated token ids.
        logits: [len(prompt) - 1 + len(tokens), vocab], or None if they were not asked for.
        total: the sum of the generated tokens' logits.
    """

    prompt: list[int]
    tokens: list[int]
    logits: Any
    total: float


def widest_dtype() -> str:
    """Return the dtype of engines whose answers are compared with each other: float32 where attention takes it."""
    return "float32" if catalog().device == "cpu" else "float16"


class Engines:
    """The engines of one model: the one that runs stays until another is asked for.

    Args:
        architecture: the qualified name of the adapter that has to serve.
        options: of ``vllm.LLM``, that the model needs in every engine.
    """

    def __init__(self, architecture: str, options: Mapping[str, Any] | None = None) -> None:
        self.architecture = architecture
        self.options = dict(options or {})
        self._key: Any = None
        self._llm: Any = None

    def get(self, folder: Path, **options: Any) -> Any:
        """Return an engine with these options: the running one if it has them, a new one otherwise.

        Args:
            folder: the checkpoint.
            options: of ``vllm.LLM``.
        """
        key = (folder, sorted(options.items(), key=lambda item: item[0]))
        if key == self._key:
            return self._llm
        self.close()
        from mszoo.conformance.seam import LLM

        defaults: dict[str, Any] = {
            "hf_overrides": {"architectures": [self.architecture]},
            "skip_tokenizer_init": True,
            "dtype": widest_dtype(),
            "block_size": BLOCK,
            "max_model_len": LENGTH,
            "max_num_seqs": 8,
            "max_num_batched_tokens": LENGTH,
            "num_gpu_blocks_override": 128,
            "seed": 0,
        }
        environ = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
        # vLLM collects garbage at every turn of a start, which takes seconds among the million objects that stay.
        # Set aside, they cost nothing; vLLM's shutdown takes them back.
        gc.freeze()
        with _environment(environ):
            asked = defaults | self.options | options
            self._llm = LLM(str(folder), **(attention_options(folder, asked["dtype"]) | asked))
        self._key = key
        return self._llm

    def close(self) -> None:
        """Take the running engine down and free what it holds."""
        self._key = None
        if self._llm is None:
            return
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        gc.collect()


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def generate(
    llm: Any,
    prompts: Sequence[list[int]],
    tokens: int,
    *,
    logits: bool = False,
    lora: Any = None,
    put_off: int | None = None,
) -> list[Answer]:
    """Answer prompts greedily, all at once.

    Args:
        llm: the engine.
        prompts: token ids.
        tokens: how many to generate for each.
        logits: return all logits; the engine must run with RAW.
        lora: a LoRARequest for all prompts.
        put_off: after so many steps, before any answer is complete, vLLM preempts all requests that run.
    """
    import torch

    from mszoo.conformance.seam import SamplingParams

    wanted = {"logprobs": -1, "prompt_logprobs": -1} if logits else {"logprobs": 0}
    sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False, **wanted)
    inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
    answers = []
    llm.enqueue(inputs, sampling, use_tqdm=False, lora_request=lora)
    if put_off is not None:
        for _ in range(put_off):
            llm.llm_engine.step()
        llm.llm_engine.reset_prefix_cache(reset_running_requests=True)
    for output in llm.wait_for_completion(use_tqdm=False):
        completion = output.outputs[0]
        values = None
        if logits:
            rows = [row for row in output.prompt_logprobs if row] + list(completion.logprobs)
            values = torch.tensor([[row[token].logprob for token in range(len(row))] for row in rows])
        answers.append(
            Answer(
                list(output.prompt_token_ids),
                list(completion.token_ids),
                values,
                completion.cumulative_logprob,
            )
        )
    return answers


def encode(llm: Any, prompts: Sequence[list[int]]) -> list[Any]:
    """Return what an encoder makes of prompts, all given at once, in float32.

    Hidden states [len(prompt), hidden], scores of a text's classes [classes], or of its tokens'
    [len(prompt), classes].

    Args:
        llm: the engine; it must run with :func:`pooling`.
        prompts: token ids.
    """
    from mszoo.conformance.seam import PoolingParams

    inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
    params = PoolingParams(use_activation=False)  # vLLM would scale each to length 1, or to a sum of 1
    task = llm.llm_engine.vllm_config.model_config.pooler_config.task
    outputs = llm.encode(inputs, params, pooling_task=task, use_tqdm=False)
    return [output.outputs.data.float() for output in outputs]


def embed(llm: Any, prompts: Sequence[list[int]]) -> list[Any]:
    """Return the embeddings [hidden] of prompts, all given at once, as vLLM makes them of a decoder.

    Args:
        llm: the engine; it must run with EMBEDDING.
        prompts: token ids.
    """
    import torch

    outputs = llm.embed([{"prompt_token_ids": prompt} for prompt in prompts], use_tqdm=False)
    return [torch.tensor(output.outputs.embedding) for output in outputs]


def pooling(task: str) -> dict[str, Any]:
    """Return the options of an engine that pools instead of generating text; its folder needs a tokenizer.

    Args:
        task: of the encoder's record; of one that embeds, the hidden states of all tokens are asked for.
    """
    return {
        "runner": "pooling",
        "pooler_config": {"task": "token_embed" if task == "embed" else task},
        "enforce_eager": True,
        "skip_tokenizer_init": False,
    }


#: Options of an engine that makes embeddings with a decoder; its folder needs a tokenizer.
EMBEDDING = {"runner": "pooling", "convert": "embed", "enforce_eager": True, "skip_tokenizer_init": False}
_LOGITS = {"max_logprobs": -1, "logprobs_mode": "raw_logits"}  # "log probabilities" are the model's logits
#: Options of an engine that has room for everything and computes op by op.
RAW = _LOGITS | {"enforce_eager": True, "enable_prefix_caching": False}
#: Options of an engine that is short of everything: chunks, vLLM's default compiled mode, and few blocks of the KV
#: cache, whose number :func:`tight_cache` tells.
TIGHT = _LOGITS | {"max_num_batched_tokens": STEP, "disable_log_stats": False}


@dataclass(frozen=True)
class Cache:
    """The KV cache of an engine that is short of it.

    Attributes:
        block: tokens per block.
        blocks: one request of the full length fits, and hardly more.
    """

    block: int
    blocks: int


def tight_cache(llm: Any) -> Cache:
    """Return the KV cache that the tight engine of a model gets, from what vLLM made of a roomy one.

    Blocks have the size that vLLM chose, and layers with a sliding window take other ones than those that see all.

    Args:
        llm: a running engine of the model.
    """
    config = copy.copy(llm.llm_engine.vllm_config)
    config.scheduler_config = copy.copy(config.scheduler_config)
    config.scheduler_config.max_num_batched_tokens = STEP
    groups = llm.llm_engine.engine_core.engine_core.scheduler.kv_cache_config.kv_cache_groups
    specs = [group.kv_cache_spec for group in groups]
    longest = sum(-(-spec.max_memory_usage_bytes(config) // spec.page_size_bytes) for spec in specs)
    # vLLM keeps one block to itself. With the other one, two prompts fit and their answers don't.
    return Cache(config.cache_config.block_size, longest + 2)


def turned_off(llm: Any, feature: str) -> bool:
    """Return whether vLLM runs a model without ``chunked prefill`` or ``prefix caching``, as it does for some."""
    config = llm.llm_engine.vllm_config
    on = {
        "chunked prefill": config.scheduler_config.enable_chunked_prefill,
        "prefix caching": config.cache_config.enable_prefix_caching,
    }
    return not on[feature]


def model_of(llm: Any) -> Any:
    """Return the model inside the worker: the torch module that vLLM calls."""
    return llm.apply_model(lambda model: model)[0]


def metric(llm: Any, name: str) -> float:
    """Return one of vLLM's counters."""
    return float(sum(found.value for found in llm.get_metrics() if found.name == name))
