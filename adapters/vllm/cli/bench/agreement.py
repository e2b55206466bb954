"""Checks that the two sides of ``mszoo bench`` give the same outputs, up to rounding."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from mszoo.adapters.vllm.cli.bench.job import BenchError, Outputs, Result

# Two float32 implementations of a model differ by rounding: 1e-5 in a log-probability where each is right, and
# well above 1e-3 where one is wrong.
FLOAT32_DIFFERENCE = 1e-3
# bfloat16 keeps 8 bits, float16 11, and each side rounds at other places, so neither is the other's measure: both
# are held against vLLM's own model in float32. MindSpore may be this much further away from it than vLLM's own
# model in the same dtype is: on average, at most, and beyond it in absolute terms. A wrong model is off by
# several units in most log-probabilities.
HALF_MEAN_FACTOR = 2.0
HALF_MAXIMUM_FACTOR = 4.0
HALF_FLOOR = 0.01
# Greedy answers may part where differences of both tokens, in opposite directions, close the gap between them.
_TOKENS_OF_A_TIE = 2


@dataclass(frozen=True)
class Agreement:
    """How far the two sides' outputs agree.

    Attributes:
        answers: number of prompts, and of those answered with the same tokens; none of a model that is pooled.
        near_ties: (prompt, token, gap of the log-probabilities) where a near tie made them part.
        maximum, mean: how far MindSpore's log-probabilities of a given text are from those it is held against.
        against: what these are, in words.
    """

    answers: tuple[int, int]
    near_ties: tuple[tuple[int, int, float], ...]
    maximum: float
    mean: float
    against: str

    def __str__(self) -> str:
        prompts, same = self.answers
        if not prompts:
            return (
                f"pooled values, scaled to a root mean square of 1, differ by at most {self.maximum:.2g}, "
                f"{self.mean:.2g} on average from {self.against}"
            )
        text = f"greedy tokens of {same} of {prompts} prompts are the same"
        if self.near_ties:
            gap = max(gap for _, _, gap in self.near_ties)
            text += f", the others part at near ties (log-probability gap at most {gap:.2g})"
        return (
            f"{text}; log-probabilities differ by at most {self.maximum:.2g}, {self.mean:.2g} on average from "
            f"{self.against}"
        )


def compare(mindspore: Result, vllm: Result, reference: Outputs | None = None) -> Agreement:
    """Compare what the two sides answered.

    Args:
        mindspore: of MindSpore.
        vllm: of vLLM's own model.
        reference: of vLLM's own model in float32; needed where the sides computed in another dtype.

    Raises:
        BenchError: they computed in different dtypes, or their outputs differ by more than rounding explains.
    """
    if mindspore.dtype != vllm.dtype:
        what = f"MindSpore computed in {mindspore.dtype}, vLLM's own model in {vllm.dtype}"
        raise BenchError("bench", what, "Give one with --dtype")
    ours, theirs = mindspore.outputs, vllm.outputs
    if mindspore.dtype == "float32":
        mean, maximum = _difference(ours, theirs)
        allowed = (FLOAT32_DIFFERENCE, FLOAT32_DIFFERENCE)
        against = "vLLM's own"
    else:
        if reference is None:
            raise ValueError(f"outputs in {mindspore.dtype} are compared by way of float32")
        mean, maximum = _difference(ours, reference)
        rounding = _difference(theirs, reference)
        allowed = (
            HALF_MEAN_FACTOR * rounding[0] + HALF_FLOOR,
            HALF_MAXIMUM_FACTOR * rounding[1] + HALF_FLOOR,
        )
        against = (
            f"float32, where vLLM's own in {mindspore.dtype} do by {rounding[1]:.2g} and {rounding[0]:.2g}"
        )
    # Written so that a NaN is refused too.
    if not (mean <= allowed[0] and maximum <= allowed[1]):
        raise _outputs_differ(
            f"{'log-probabilities of one prompt' if ours.answers else 'what is pooled of one text'} by up to "
            f"{maximum:.3g} and {mean:.3g} on average from {against}; "
            f"{mindspore.dtype} explains {allowed[1]:.3g} and {allowed[0]:.3g}"
        )
    ties = _near_ties(ours, theirs, _TOKENS_OF_A_TIE * allowed[1])
    same = sum(a == b for a, b in zip(ours.answers, theirs.answers, strict=True))
    return Agreement((len(ours.answers), same), ties, maximum, mean, against)


def _difference(a: Outputs, b: Outputs) -> tuple[float, float]:
    """Return mean and maximum of the differences of the log-probabilities of one text."""
    differences = [abs(x - y) for x, y in zip(a.scores, b.scores, strict=True)]
    return statistics.fmean(differences), max(differences)


def _near_ties(ours: Outputs, theirs: Outputs, allowed: float) -> tuple[tuple[int, int, float], ...]:
    """Return where greedy answers part at a gap of at most `allowed`; BenchError where they part without one."""
    ties = []
    for prompt, (a, b) in enumerate(zip(ours.answers, theirs.answers, strict=True)):
        if a == b:
            continue
        # What follows the first difference has another context, and says nothing.
        place = next(index for index, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
        gaps = []
        for side in (ours, theirs):
            near = dict(side.nearest[prompt][place])
            gaps.append(abs(near[a[place]] - near[b[place]]) if {a[place], b[place]} <= near.keys() else None)
        if any(gap is None or not gap <= allowed for gap in gaps):
            shown = " and ".join("none" if gap is None else f"{gap:.3g}" for gap in gaps)
            raise _outputs_differ(
                f"greedy token {place} of prompt {prompt} is {a[place]} of MindSpore's and {b[place]} of vLLM's "
                f"own, which is no near tie (gaps of the log-probabilities: {shown})"
            )
        ties.append((prompt, place, max(gap for gap in gaps if gap is not None)))
    return tuple(ties)


def _outputs_differ(how: str) -> BenchError:
    hint = (
        "Find the wrong model with --dtype float32 and `mszoo explain`: speed of a wrong model means nothing"
    )
    return BenchError("bench", f"the two models' outputs differ: {how}", hint)
