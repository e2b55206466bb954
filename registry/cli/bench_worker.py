"""What one fresh process of ``mszoo bench`` runs: a model in vLLM's engine, timed, with proof of who answered.

Run as ``python -m mszoo.registry.cli.bench_worker JOB``; JOB is a JSON file with the fields of :class:`Job`. The
result goes to the file that the job names, everything else to standard output and error. The environment says
whose model serves: with ``MSZOO_DISABLE=1`` it is vLLM's own.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mszoo.registry.errors import MszooError

MINDSPORE, VLLM = "mindspore", "vllm"
SCORED_TOKENS = 128  # length of the prompt whose log-probabilities are compared
ANSWERED_PROMPTS = (5, 16, 40, 1)  # lengths of the prompts whose greedy answers are compared
ANSWER_TOKENS = 16
_NEAREST = 8  # tokens to find the other side's choice among
_WRAPPER = "mszoo.registry.bridge.wrapper.MindSporeModel"
_MIB_IN_KIB = 1024


class BenchError(MszooError):
    """The benchmark can't run, or its figures would compare things that are not the same.

    Args:
        lines: the end of a log, for the reader.
    """

    def __init__(self, who: str, what: str, mend: str, lines: tuple[str, ...] = ()) -> None:
        super().__init__(who, what, mend)
        self.lines = lines


@dataclass(frozen=True)
class Workload:
    """What every process measures; both sides get the same.

    Args:
        model: the model folder.
        dtype: as vLLM's ``--dtype`` takes it.
        batches: numbers of prompts that are decoded at once.
        prompt: tokens of each prompt that is decoded.
        new: tokens that are decoded for each prompt, the first one included.
        prefill: tokens of the prompt whose prefill is timed.
        eager: vLLM's ``--enforce-eager``.
        repeats: how often a process takes each time; it gives their median.
    """

    model: str
    dtype: str = "auto"
    batches: tuple[int, ...] = (1, 8, 32)
    prompt: int = 16
    new: int = 64
    prefill: int = 512
    eager: bool = False
    repeats: int = 3


@dataclass(frozen=True)
class Job:
    """One run.

    Args:
        side: who must answer.
        workload: what to measure.
        started: when the process was started, Unix time.
        result: file for the result.
        timed: whether anything but the outputs is wanted.
    """

    side: str
    workload: Workload
    started: float
    result: str
    timed: bool = True


@dataclass(frozen=True)
class Answerer:
    """Who computed the answers, seen from inside the process that computed them.

    Attributes:
        classes: the model's class and its bases, most derived first.
        adapter: qualified name of mszoo's adapter, None for vLLM's own model; so are the next three.
        model: the MindSpore class, as ``module:Class``.
        kernels: kernel set by op.
        digest: of mszoo's decisions.
        forwards: steps that MindSpore computed on real tokens.
    """

    classes: tuple[str, ...]
    adapter: str | None = None
    model: str | None = None
    kernels: dict[str, str] | None = None
    digest: str | None = None
    forwards: int = 0


@dataclass(frozen=True)
class Outputs:
    """What the model said, for the comparison.

    Attributes:
        answers: greedy token ids by prompt.
        nearest: by prompt and token: the likeliest token ids with their log-probabilities.
        scores: log-probabilities of the tokens of one fixed prompt, from the second on.
    """

    answers: list[list[int]]
    nearest: list[list[list[tuple[int, float]]]]
    scores: list[float]


@dataclass(frozen=True)
class Result:
    """What one run measured; times in seconds.

    Attributes:
        answerer: who answered, after all measurements.
        dtype: what vLLM computed in.
        versions: of vllm, torch, mindspore and mszoo.
        start: from the start of the process to the first token.
        first_token: one short prompt on a warm engine.
        prefill: one long prompt.
        decode: by batch, without the time to the first tokens.
        peak_rss: MiB.
        outputs: for the comparison.
    """

    answerer: Answerer
    dtype: str
    versions: dict[str, str]
    start: float
    first_token: float
    prefill: float
    decode: list[float]
    peak_rss: float
    outputs: Outputs

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Result:
        """Read what :func:`main` wrote."""
        answerer = Answerer(**fields["answerer"])
        return cls(**{**fields, "answerer": answerer, "outputs": Outputs(**fields["outputs"])})


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
    return {
        "model": workload.model,
        "dtype": workload.dtype,
        "enforce_eager": workload.eager,
        "max_model_len": length,
        "max_num_seqs": max(workload.batches),
        "max_num_batched_tokens": max(length, max(workload.batches) * workload.prompt),
        "enable_prefix_caching": False,
        "skip_tokenizer_init": True,
        "seed": 0,
    }


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
    import vllm
    from vllm import LLM, SamplingParams

    workload = job.workload
    llm = LLM(**engine_options(workload))
    config = llm.llm_engine.vllm_config
    vocabulary = config.model_config.get_vocab_size()

    def generate(batch: list[dict[str, list[int]]], tokens: int, **options: Any) -> Any:
        sampling = SamplingParams(
            temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False, **options
        )
        return llm.generate(batch, sampling, use_tqdm=False)

    def seconds(batch: list[dict[str, list[int]]], tokens: int) -> float:
        start = time.perf_counter()
        generate(batch, tokens)
        return time.perf_counter() - start

    single = prompts(vocabulary, (workload.prompt,), seed=1)
    generate(single, 1)
    start = time.time() - job.started  # the parent's clock: this process didn't exist when it began to start
    check_answerer(job.side, look(llm))
    if not job.timed:
        return _outputs(vocabulary, generate)
    _check_cache(config.cache_config, workload)

    seconds(single, 1)
    first_token = median_time(workload.repeats, lambda: seconds(single, 1))
    long = prompts(vocabulary, (workload.prefill,), seed=2)
    seconds(long, 1)
    prefill = median_time(workload.repeats, lambda: seconds(long, 1))
    decode = []
    for size in workload.batches:
        batch = prompts(vocabulary, (workload.prompt,) * size, seed=3)
        seconds(batch, min(workload.new, 4))
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
            "vllm": vllm.__version__,
            "torch": torch.__version__,
            **{name: importlib.metadata.version(name) for name in ("mindspore", "mszoo")},
        },
        start=start,
        first_token=first_token,
        prefill=prefill,
        decode=decode,
        peak_rss=peak_rss,
        outputs=_outputs(vocabulary, generate),
    )


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
    workload = {**fields["workload"], "batches": tuple(fields["workload"]["batches"])}
    job = Job(**{**fields, "workload": Workload(**workload)})
    try:
        report = dataclasses.asdict(run(job))
    except MszooError as error:
        report = {"error": [error.who, error.what, error.mend]}
    Path(job.result).write_text(json.dumps(report), encoding="utf-8")


def _check_cache(cache_config: Any, workload: Workload) -> None:
    """Raise BenchError if vLLM would have to decode the largest batch in turns."""
    block = cache_config.block_size
    needed = max(workload.batches) * -(-(workload.prompt + workload.new) // block) * block
    held = cache_config.num_gpu_blocks * block
    if held < needed:
        what = f"the KV cache holds {held} tokens, and batch {max(workload.batches)} needs {needed}"
        raise BenchError("bench", what, "Set VLLM_CPU_KVCACHE_SPACE to more GiB, or give a smaller --batch")


def _outputs(vocabulary: int, generate: Callable[..., Any]) -> Outputs:
    answered = generate(prompts(vocabulary, ANSWERED_PROMPTS, seed=4), ANSWER_TOKENS, logprobs=_NEAREST)
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


if __name__ == "__main__":
    main(sys.argv[1])
