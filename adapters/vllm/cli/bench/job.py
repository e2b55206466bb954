"""What the two sides of ``mszoo bench`` are given, and what their processes report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mszoo.registry.errors import MszooError

MINDSPORE, VLLM = "mindspore", "vllm"


class BenchError(MszooError):
    """The benchmark can't run, or its figures would compare things that are not the same.

    Args:
        lines: the end of a log, for the reader.
    """

    def __init__(self, who: str, what: str, hint: str, lines: tuple[str, ...] = ()) -> None:
        super().__init__(who, what, hint)
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
        task: of a model that is pooled, vLLM's pooling task; empty where text is generated. Prompts then are texts,
            and nothing is decoded.
        repeats: how often a process takes each time; it gives their median.
        reads: what the model reads beside text, as its record's ``modalities``.
        images: how many of them stand before the prompt whose prefill is timed.
        image_size: their height and width, in pixels.
        trust_remote_code: vLLM's option: Python files that come with the model are run.
        speculative_config: vLLM's option: what proposes tokens; empty for nothing.
    """

    model: str
    dtype: str = "auto"
    batches: tuple[int, ...] = (1, 8, 32)
    prompt: int = 16
    new: int = 64
    prefill: int = 512
    eager: bool = False
    task: str = ""
    repeats: int = 3
    reads: tuple[str, ...] = ()
    images: int = 0
    image_size: int = 336
    trust_remote_code: bool = False
    speculative_config: dict[str, Any] = field(default_factory=dict)


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
        answers: greedy token ids by prompt; none of a model that is pooled, nor ``nearest``.
        nearest: by prompt and token: the likeliest token ids with their log-probabilities.
        scores: log-probabilities of the tokens of one fixed prompt, from the second on; of a model that is pooled
            what it makes of one fixed text, so scaled that squares are one on average.
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
        decode: by batch, without the time to the first tokens; of a model that is pooled, all of it.
        peak_rss: MiB.
        outputs: for the comparison.
        draft: class of the model or head that proposed tokens, or qualified name of its adapter; None for none.
        accepted: share of the proposed tokens that were; None where none were proposed.
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
    draft: str | None = None
    accepted: float | None = None

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Result:
        """Read what :func:`main` wrote."""
        answerer = Answerer(**fields["answerer"])
        return cls(**{**fields, "answerer": answerer, "outputs": Outputs(**fields["outputs"])})
