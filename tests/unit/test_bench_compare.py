"""How `mszoo bench` compares the two sides' outputs: equal, near ties, rounding, wrong."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from mszoo.adapters.vllm.cli.bench.agreement import compare
from mszoo.adapters.vllm.cli.bench.job import MINDSPORE, VLLM, BenchError, Result

from .bench_results import OURS, outputs, result


def test_result_survives_json():
    written = json.loads(json.dumps(dataclasses.asdict(result())))
    assert compare(Result.from_json(written), result(VLLM)).answers == (2, 2)
    assert Result.from_json(written).answerer.kernels == OURS.kernels


def rounded(dtype):
    """The float32 reference of sides that are 0.15 away from it: a gap of 1.22 is a near tie then."""
    return None if dtype == "float32" else outputs(scores=(-1.15, -2.15, -3.15))


def test_equal_outputs_agree():
    agreement = compare(result(), result(VLLM, outputs=outputs(scores=(-1.0, -2.0, -3.0004))))
    assert (agreement.answers, agreement.near_ties) == ((2, 2), ())
    assert agreement.maximum == pytest.approx(4e-4)
    assert str(agreement) == (
        "greedy tokens of 2 of 2 prompts are the same; log-probabilities differ by at most 0.0004, "
        "0.00013 on average from vLLM's own"
    )


def test_half_precision_is_held_against_float32():
    """Neither side is the other's measure: what counts is who is further from the unrounded model."""
    ours = result(dtype="bfloat16", outputs=outputs(scores=(-1.1, -2.1, -3.1)))
    theirs = result(VLLM, dtype="bfloat16", outputs=outputs(scores=(-0.9, -1.9, -2.9)))
    agreement = compare(ours, theirs, outputs())
    assert (agreement.mean, agreement.maximum) == (pytest.approx(0.1), pytest.approx(0.1))
    assert str(agreement).endswith(
        "0.1 on average from float32, where vLLM's own in bfloat16 do by 0.1 and 0.1"
    )
    with pytest.raises(ValueError, match="outputs in bfloat16 are compared by way of float32"):
        compare(ours, theirs)


@pytest.mark.parametrize(("dtype", "gap"), [("float32", 0.0015), ("bfloat16", 0.9), ("float16", 0.9)])
def test_a_near_tie_is_told(dtype, gap):
    # At the second token of the second prompt one side says 7, the other 8; what follows is free.
    ours = result(dtype=dtype, outputs=outputs(((3, 4, 5), (6, 7, 8)), gap))
    answers = ((3, 4, 5), (6, 8, 99))
    nearest = outputs(answers, gap).nearest
    nearest[1][1] = [(8, -1.0), (7, -1.0 - gap)]
    theirs = dataclasses.replace(outputs(answers, gap), nearest=nearest)
    agreement = compare(ours, result(VLLM, dtype=dtype, outputs=theirs), rounded(dtype))
    assert agreement.answers == (2, 1)
    assert [item[:2] for item in agreement.near_ties] == [(1, 1)]
    assert f"the others part at near ties (log-probability gap at most {gap:.2g})" in str(agreement)


@pytest.mark.parametrize(
    ("dtype", "theirs", "text"),
    [
        (
            "float32",
            outputs(((3, 4, 5), (6, 8, 8))),
            "greedy token 1 of prompt 1 is 7 of MindSpore's and 8 of vLLM's own, which is no near tie (gaps of the "
            "log-probabilities: 1 and none)",
        ),
        (
            "float32",
            outputs(((3, 4, 5), (6, 9, 8)), 1e-4),
            "is no near tie (gaps of the log-probabilities: none and none)",
        ),
        ("float32", outputs(scores=(-1.0, -2.0, -3.0011)), "log-probabilities of one prompt by up to 0.0011"),
        ("float32", outputs(scores=(-1.0, math.nan, -3.0)), "nan on average"),
        ("float16", outputs(((3, 4, 5), (6, 9, 8))), "which is no near tie"),
    ],
)
def test_outputs_that_differ_are_refused(dtype, theirs, text):
    with pytest.raises(BenchError) as raised:
        compare(result(dtype=dtype), result(VLLM, dtype=dtype, outputs=theirs), rounded(dtype))
    message = str(raised.value)
    assert message.startswith("bench: the two models' outputs differ: ")
    assert text in message
    assert message.endswith(
        ". Find the wrong model with --dtype float32 and `mszoo explain`: speed of a wrong model means nothing"
    )


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        (
            (-1.25, -2.25, -3.25),
            r"by up to 0.25 and 0.25 on average from float32, where vLLM's own in bfloat16 do",
        ),
        ((-1.0, -2.0, -3.6), "up to 0.6 and 0.2 on average"),  # one token far off
        ((-1.0, math.nan, -3.0), "nan on average"),
    ],
)
def test_more_than_bfloat16_explains_is_refused(scores, text):
    ours = result(dtype="bfloat16", outputs=outputs(scores=scores))
    theirs = result(VLLM, dtype="bfloat16", outputs=outputs(scores=(-1.1, -2.1, -3.1)))
    with pytest.raises(BenchError, match=text):
        compare(ours, theirs, outputs())


def test_dtypes_that_differ_are_refused():
    with pytest.raises(BenchError) as raised:
        compare(result(), result(VLLM, dtype="bfloat16"))
    assert str(raised.value) == (
        "bench: MindSpore computed in float32, vLLM's own model in bfloat16. Give one with --dtype"
    )


def test_pooled_values_are_compared():
    def pooled(side, last):
        return result(side, outputs=outputs((), scores=(1.0, -1.0, last)))

    assert str(compare(pooled(MINDSPORE, 1.0), pooled(VLLM, 1.0004))) == (
        "pooled values, scaled to a root mean square of 1, differ by at most 0.0004, 0.00013 on average from "
        "vLLM's own"
    )
    with pytest.raises(BenchError, match="what is pooled of one text by up to 0"):
        compare(pooled(MINDSPORE, 1.0), pooled(VLLM, 0.5))
