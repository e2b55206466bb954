"""What one fresh process of ``mszoo bench`` runs: a model in vLLM's engine, timed, with proof of who answered.

Run as ``python -m mszoo.adapters.vllm.cli.bench.worker JOB``; JOB is a JSON file with the fields of :class:`Job`.
The result goes to the file that the job names, everything else to standard output and error. The environment says
whose model serves: with ``MSZOO_DISABLE=1`` it is vLLM's own.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import itertools
import json
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mszoo.adapters.vllm.cli.bench.job import (
    MINDSPORE,
    VLLM,
    Answerer,
    BenchError,
    Job,
    Outputs,
    Result,
    Workload,
)
from mszoo.registry.errors import MszooError

SCORED_TOKENS = 128  # length of the prompt whose log-probabilities are compared
ANSWERED_PROMPTS = (5, 16, 40, 1)  # lengths of the prompts whose greedy answers are compared
ANSWER_TOKENS = 16
_IMAGE_ROOM = 4096  # tokens of an image, at most
_NEAREST = 8  # tokens to find the other side's choice among
_WRAPPER = "mszoo.adapters.vllm.models.wrapper.MindSporeModel"
_MIB_IN_KIB = 1024


def check_answerer(side: str, answerer: Answerer) -> None:
    """Raise BenchError unless the side's own model answered."""
    ours = _WRAPPER in answerer.classes
    if side == VLLM and ours:
        what = f"vLLM's side was served by {answerer.adapter}"
        raise BenchError("bench", what, "Check that nothing unsets MSZOO_DISABLE")
    if side == MINDSPORE and not ours:
        what = f"{answerer.classes[0]} served the MindSpore side, no adapter of mszoo"
        raise BenchError("bench", what, "See why in the log's lines with 'mszoo'")
    if side == MINDSPORE and not answerer.forwards:
        what = f"{answerer.adapter} computed no step of the MindSpore side"
        raise BenchError("bench", what, "Report this with the log")


def engine_options(workload: Workload) -> dict[str, Any]:
    """Return the arguments of vLLM's ``LLM``; every prefill fits one step."""
    length = max(
        workload.prefill + 1,
        workload.prompt + workload.new,
        SCORED_TOKENS + 1,
        max(ANSWERED_PROMPTS) + ANSWER_TOKENS,
    )
    if workload.task:
        length = max(workload.prefill, workload.prompt, SCORED_TOKENS)
    shown: dict[str, Any] = {}
    if workload.reads:
        shown["limit_mm_per_prompt"] = dict.fromkeys(workload.reads, 0) | {"image": workload.images}
    if workload.images:
        length = min(length + workload.images * _IMAGE_ROOM, _longest(workload.model))
    return {
        "model": workload.model,
        "dtype": workload.dtype,
        "enforce_eager": workload.eager,
        "max_model_len": length,
        "max_num_seqs": max(workload.batches),
        "max_num_batched_tokens": max(length, max(workload.batches) * workload.prompt),
        "enable_prefix_caching": False,
        # vLLM pools nothing without a tokenizer, and prepares no images.
        "skip_tokenizer_init": not (workload.task or workload.reads),
        "seed": 0,
        **shown,
        # Its statistics say how many proposals were accepted.
        **(
            {"speculative_config": dict(workload.speculative_config), "disable_log_stats": False}
            if workload.speculative_config
            else {}
        ),
        **({"trust_remote_code": True} if workload.trust_remote_code else {}),
        **({"runner": "pooling", "pooler_config": {"task": workload.task}} if workload.task else {}),
    }


def _longest(model: str) -> int:
    """Return the positions that a model's config.json says it has, or very many where it says none."""
    config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config") or config
    return int(text.get("max_position_embeddings") or sys.maxsize)


def with_images(
    prompt: dict[str, list[int]], placeholders: list[int], workload: Workload, seed: int
) -> dict[str, Any]:
    """Return a prompt behind images of noise, which are the same for the same seed.

    Args:
        prompt: token ids.
        placeholders: token ids that stand for the images.
        workload: says how many, and of which size.
        seed: of the noise.
    """
    import numpy as np
    from PIL import Image

    draw, side = np.random.default_rng(seed), workload.image_size
    pixels = draw.integers(0, 256, (workload.images, side, side, 3), dtype=np.uint8)
    shown = {"image": [Image.fromarray(one) for one in pixels]}
    return {"prompt_token_ids": [*placeholders, *prompt["prompt_token_ids"]], "multi_modal_data": shown}


def _placeholders(llm: Any, count: int) -> list[int]:
    """Return the token ids that stand for so many images, by what the model says stands for each."""

    def texts(model: Any) -> list[str]:
        return [type(model).get_placeholder_str("image", index + 1) for index in range(count)]

    tokenizer = llm.get_tokenizer()
    (found,) = llm.apply_model(texts)
    return [token for text in found for token in tokenizer.encode(text, add_special_tokens=False)]


def prompts(vocabulary: int, lengths: tuple[int, ...], seed: int) -> list[dict[str, list[int]]]:
    """Return prompts of random token ids below `vocabulary`; the same for the same arguments."""
    draw = random.Random(seed)
    return [{"prompt_token_ids": [draw.randrange(vocabulary) for _ in range(n)]} for n in lengths]


def median_time(repeats: int, measure: Callable[[], float]) -> float:
    """Return the median of several measurements."""
    return statistics.median(measure() for _ in range(repeats))


def run(job: Job) -> Result | Outputs:
    """Start the engine, answer, measure; the outputs alone if no time is wanted.

    Raises:
        BenchError: another model answers than the side's own, or the KV cache is too small to decode at once.
    """
    import torch

    from mszoo.adapters.vllm.seam import LLM, SamplingParams, vllm_version

    workload = job.workload
    llm = LLM(**engine_options(workload))
    config = llm.llm_engine.vllm_config
    vocabulary = config.model_config.get_vocab_size()

    def generate(batch: list[dict[str, list[int]]], tokens: int, **options: Any) -> Any:
        sampling = SamplingParams(
            temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False, **options
        )
        return llm.generate(batch, sampling, use_tqdm=False)

    def pool(batch: list[dict[str, list[int]]], *_: int) -> Any:
        return llm.encode(batch, pooling_task=workload.task, use_tqdm=False)

    def seconds(batch: list[dict[str, list[int]]], tokens: int) -> float:
        start = time.perf_counter()
        answer(batch, tokens)
        return time.perf_counter() - start

    answer = pool if workload.task else generate
    single = prompts(vocabulary, (workload.prompt,), seed=1)
    answer(single, 1)
    start = time.time() - job.started  # the parent's clock: this process didn't exist when it began to start
    check_answerer(job.side, look(llm))
    seeds, placeholders = itertools.count(), _placeholders(llm, workload.images) if workload.images else []

    def shown(length: int, seed: int) -> list[Any]:
        # New images each time: vLLM keeps what it made of those that it has seen.
        found = prompts(vocabulary, (length,), seed)
        return (
            [with_images(one, placeholders, workload, next(seeds)) for one in found]
            if placeholders
            else found
        )

    say = (
        functools.partial(_pooled, vocabulary, pool)
        if workload.task
        else functools.partial(
            _outputs, vocabulary, generate, shown(max(ANSWERED_PROMPTS), 6)[: workload.images]
        )
    )
    if not job.timed:
        return say()
    if not workload.task:
        _check_cache(config.cache_config, workload)

    seconds(single, 1)
    first_token = median_time(workload.repeats, lambda: seconds(single, 1))
    seconds(shown(workload.prefill, 2), 1)
    prefill = median_time(workload.repeats, lambda: seconds(shown(workload.prefill, 2), 1))
    decode = []
    for size in workload.batches:
        batch = prompts(vocabulary, (workload.prompt,) * size, seed=3)
        seconds(batch, min(workload.new, 4))
        if workload.task:
            decode.append(median_time(workload.repeats, functools.partial(seconds, batch, 1)))
            continue
        times = [(seconds(batch, workload.new), seconds(batch, 1)) for _ in range(workload.repeats)]
        decode.append(statistics.median(whole - first for whole, first in times))
    if min(decode) <= 0:
        raise BenchError("bench", f"{workload.new} tokens are too few to time", "Decode more with --new")
    # Taken before the outputs: log-probabilities of a prompt need memory that serving doesn't.
    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MIB_IN_KIB
    return Result(
        answerer=look(llm),
        dtype=str(config.model_config.dtype).removeprefix("torch."),
        versions={
            "vllm": vllm_version(),
            "torch": torch.__version__,
            **{name: importlib.metadata.version(name) for name in ("mindspore", "mszoo")},
        },
        start=start,
        first_token=first_token,
        prefill=prefill,
        decode=decode,
        peak_rss=peak_rss,
        accepted=_accepted(llm) if workload.speculative_config else None,
        draft=_draft(llm) if workload.speculative_config else None,
        outputs=say(),
    )


def _accepted(llm: Any) -> float | None:
    """Return the share of proposed tokens that were accepted so far."""
    counted = {metric.name: metric.value for metric in llm.get_metrics() if hasattr(metric, "value")}
    proposed = counted.get("vllm:spec_decode_num_draft_tokens", 0)
    return counted["vllm:spec_decode_num_accepted_tokens"] / proposed if proposed else None


def _draft(llm: Any) -> str | None:
    """Ask the model or head that proposes tokens who it is."""

    def describe(worker: Any) -> str | None:
        model = getattr(getattr(worker.model_runner, "drafter", None), "model", None)
        if model is None:
            return None
        candidate = getattr(model, "candidate", None)
        kind = type(model)
        return candidate.qualified_name if candidate is not None else f"{kind.__module__}.{kind.__qualname__}"

    name: str | None = llm.collective_rpc(describe)[0]
    return name


def look(llm: Any) -> Answerer:
    """Ask the model itself who it is."""

    def describe(model: Any) -> Answerer:
        classes = tuple(f"{base.__module__}.{base.__qualname__}" for base in type(model).__mro__)
        if _WRAPPER not in classes:
            return Answerer(classes)
        return Answerer(
            classes,
            model.candidate.qualified_name,
            model.candidate.adapter.model,
            dict(model.kernels.sets),
            model.catalog.digest(),
            model.forwards,
        )

    answerer: Answerer = llm.apply_model(describe)[0]
    return answerer


def main(path: str) -> None:
    """Run the job in a JSON file; an error of mszoo becomes the result."""
    fields = json.loads(Path(path).read_text(encoding="utf-8"))
    workload = fields["workload"]
    lists = {name: tuple(workload[name]) for name in ("batches", "reads")}
    job = Job(**{**fields, "workload": Workload(**(workload | lists))})
    try:
        report = dataclasses.asdict(run(job))
    except MszooError as error:
        report = {"error": [error.who, error.what, error.hint]}
    Path(job.result).write_text(json.dumps(report), encoding="utf-8")


def _check_cache(cache_config: Any, workload: Workload) -> None:
    """Raise BenchError if vLLM would have to decode the largest batch in turns."""
    block = cache_config.block_size
    needed = max(workload.batches) * -(-(workload.prompt + workload.new) // block) * block
    held = cache_config.num_gpu_blocks * block
    if held < needed:
        what = f"the KV cache holds {held} tokens, and batch {max(workload.batches)} needs {needed}"
        raise BenchError("bench", what, "Set VLLM_CPU_KVCACHE_SPACE to more GiB, or give a smaller --batch")


def _outputs(vocabulary: int, generate: Callable[..., Any], shown: list[Any]) -> Outputs:
    asked = [*prompts(vocabulary, ANSWERED_PROMPTS, seed=4), *shown]
    answered = generate(asked, ANSWER_TOKENS, logprobs=_NEAREST)
    (scored,) = generate(prompts(vocabulary, (SCORED_TOKENS,), seed=5), 1, prompt_logprobs=0)
    return Outputs(
        answers=[list(output.outputs[0].token_ids) for output in answered],
        nearest=[
            [[(token, entry.logprob) for token, entry in step.items()] for step in output.outputs[0].logprobs]
            for output in answered
        ],
        scores=[
            step[token].logprob
            for token, step in zip(scored.prompt_token_ids[1:], scored.prompt_logprobs[1:], strict=True)
        ],
    )


def _pooled(vocabulary: int, pool: Callable[..., Any]) -> Outputs:
    (output,) = pool(prompts(vocabulary, (SCORED_TOKENS,), seed=5))
    values = output.outputs.data.double().flatten()
    return Outputs([], [], (values / values.square().mean().sqrt()).tolist())


if __name__ == "__main__":
    main(sys.argv[1])
