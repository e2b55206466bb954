"""What a candidate's model returns is looked at before vLLM reads it: at each step, at no cost beside it."""

from __future__ import annotations

from typing import Any

import torch

from mszoo.adapters.vllm.log import log
from mszoo.registry.decisions import Candidate
from mszoo.registry.errors import PluginError

import mindspore as ms

_FLOATS = (ms.float32, ms.bfloat16, ms.float16, ms.float64)


def who(candidate: Candidate) -> str:
    """Return whose model it is, for messages."""
    return f"{candidate.qualified_name} of {candidate.plugin.source}"


def rows_of(given: Any, rows: int, what: str) -> str | None:
    """Return what is wrong about one tensor of a step's, or None.

    Args:
        given: what a model returned: a tensor [rows, ...] of MindSpore's, of floating-point numbers.
        rows: the tokens of the step.
        what: what it should be, in the plural.
    """
    if not issubclass(type(given), ms.Tensor):
        return (
            "None"
            if given is None
            else f"a {type(given).__name__} instead of {what}, a tensor of MindSpore's"
        )
    shape = given.shape
    if len(shape) != 2 or shape[0] != rows:
        return f"{what} {list(shape)} of {rows} tokens"
    return None if given.dtype in _FLOATS else f"{what} of {str(given.dtype).lower()}"


def check(candidate: Candidate, given: Any, rows: int, what: str) -> None:
    """Raise PluginError, naming whose model it is, where :func:`rows_of` finds something wrong."""
    wrong = rows_of(given, rows, what)
    if wrong is not None:
        raise PluginError(who(candidate), f"a step gave {wrong}", candidate.plugin.cure)


def tell_of_nan(candidate: Candidate, logits: torch.Tensor, of: str = "answers") -> None:
    """Log once that a model's logits are no numbers: what is sampled then means nothing.

    One logit of each row is looked at, since what makes one of them NaN is mostly in the hidden state.

    Args:
        logits: [T, vocab].
        of: what is made of them, in the plural.
    """
    if logits.is_cpu and logits.shape[-1] and bool(logits[:, 0].isnan().any()):
        log.warning_once(
            "mszoo: %s gives logits that are NaN: its %s mean nothing. %s",
            who(candidate),
            of,
            "Compare with MSZOO_DISABLE=1: a weight may be broken, or overflow in this dtype",
        )
