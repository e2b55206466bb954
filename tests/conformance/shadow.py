"""Runs the served model and its reference side by side, to say where they part: the first layer that differs."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

from mszoo.conformance.engines import generate, model_of

_ORDERS = 8
_NORMALISED = (
    1e-4  # the logarithm of what probabilities sum to, as float32 rounds it; of logits it is far from 0
)
_FEW = 0.1  # of the tokens: the share whose experts rounding may have chosen


def first_difference(llm: Any, reference: Any, tokens: list[int], tolerance: float) -> str:
    """Return, as a sentence, the first place where two models differ on a prompt.

    Args:
        llm: the running engine.
        reference: Hugging Face's model with the same weights.
        tokens: the prompt, no longer than one step of the engine.
        tolerance: relative to the largest value of the reference's layer.
    """
    import torch

    ours = _record(_layers(model_of(llm)), lambda: generate(llm, [tokens], 1))
    with torch.no_grad():
        theirs = _record(_layers(reference), lambda: reference(torch.tensor([tokens])))
    if not ours:
        return "Where they part can't be told: the model's layers are no torch modules that it calls."
    if len(ours) != len(theirs):
        return f"The model runs {len(ours) - 1} layers and the reference {len(theirs) - 1}."
    for index, (got, expected) in enumerate(zip(ours, theirs, strict=True)):
        where = f"layer {index - 1}" if index else "the embeddings, before layer 0"
        if got.shape != expected.shape:
            return f"First difference: {where} gives {list(got.shape)}, not {list(expected.shape)}."
        error = relative_error(got, expected)
        if not error <= tolerance:
            return f"First difference: {where} (relative error {error:.1e})."
    return "All layers agree: what follows them differs (the last norm or the output projection)."


def relative_error(got: Any, expected: Any) -> float:
    """Return the largest absolute difference relative to the largest absolute value; inf for NaNs."""
    return float(relative_errors(got, expected).max())


def relative_errors(got: Any, expected: Any) -> Any:
    """Return how far each row [N] is off, relative to the largest value of all rows."""
    errors = (got.double() - expected.double()).abs().amax(-1) / expected.double().abs().max()
    return errors.nan_to_num(nan=float("inf"))


def as_given(expected: Any, given: Any) -> Any:
    """Return the reference's logits [N, vocab], as log probabilities in the rows that vLLM gives as such.

    vLLM 0.23 does that of a prompt's tokens, whatever ``logprobs_mode`` says.

    Args:
        expected: the reference's logits.
        given: what vLLM gave for them.
    """
    import torch

    normalised = given.logsumexp(-1, keepdim=True).abs() < _NORMALISED
    return torch.where(normalised, expected.log_softmax(-1), expected)


def allowed_error(
    errors: list[Any],
    tolerance: float,
    reference: Any,
    prompts: list[list[int]],
    dtype: str,
) -> float:
    """Return how far off the logits of a prompt may be: the tolerance, or more for a few tokens in 16 bits.

    Rounding decides a router's near ties, in Hugging Face's own computation too.

    Args:
        errors: the relative errors of each prompt's tokens.
        tolerance: what holds but for those few.
        reference, prompts, dtype: as of :func:`rounding_errors`; no reference leaves the tolerance.
    """
    import torch

    far = float((torch.cat(errors) > tolerance).double().mean())
    if not far or dtype == "float32" or reference is None:
        return tolerance
    rounding = rounding_errors(reference, prompts, dtype)
    # More tokens than that, and it is no near tie here and there.
    if far > max(_FEW, 2 * float((rounding > tolerance).double().mean())):
        return tolerance
    return max(tolerance, 2 * float(rounding.max()))


def rounding_errors(reference: Any, prompts: list[list[int]], dtype: str) -> Any:
    """Return how far Hugging Face's model itself is off in 16 bits: the relative errors of all tokens' logits.

    Near ties are rare: the same tokens in other orders are tried too, so that some are met.

    Args:
        reference: the model in float32.
        prompts: token ids.
        dtype: such as "bfloat16".
    """
    import torch

    rounded = copy.deepcopy(reference).to(getattr(torch, dtype))
    errors = []
    for tokens in prompts:
        for seed in range(_ORDERS):
            order = random.Random(seed).sample(tokens, len(tokens)) if seed else tokens
            with torch.no_grad():
                got, expected = (
                    model(torch.tensor([order])).logits[0, :-1] for model in (rounded, reference)
                )
            errors.append(relative_errors(got, expected))
    return torch.cat(errors)


def _layers(model: Any) -> list[Any]:
    """Return the decoder layers: the longest list of modules that is in no other list, as one of experts is."""

    def lists(module: Any) -> Iterator[list[Any]]:
        children = dict(module.named_children())
        if children and list(children) == [str(index) for index in range(len(children))]:
            yield list(children.values())
            return
        for child in children.values():
            yield from lists(child)

    return max(lists(model), key=len, default=[])


def _record(layers: list[Any], run: Callable[[], Any]) -> list[Any]:
    """Return the input of the first layer and the output of each, [T, hidden], of one run."""
    import torch

    seen: list[Any] = []

    def tensors(values: Any) -> list[Any]:
        found = []
        for value in values if isinstance(values, (tuple, list)) else (values,):
            if value is None:
                continue
            tensor = value if isinstance(value, torch.Tensor) else _to_torch(value)
            if tensor is not None and tensor.is_floating_point():
                found.append(tensor.detach().flatten(0, -2))
        return found

    def before(module: Any, args: Any, kwargs: Any) -> None:
        given = tensors([*args, *kwargs.values()])
        seen.append(given[0].to("cpu", torch.float32, copy=True))

    def after(module: Any, args: Any, output: Any) -> None:
        given = tensors(output)
        # A layer may give what it adds and the residual stream apart, as vLLM's own layers do.
        total = given[0].float() + given[1].float() if len(given) > 1 else given[0].float()
        seen.append(total.to("cpu", copy=True))

    handles = [layer.register_forward_hook(after) for layer in layers]
    if layers:
        handles.append(layers[0].register_forward_pre_hook(before, with_kwargs=True))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen[: len(layers) + 1]


def _to_torch(value: Any) -> Any:
    from mszoo.kernels.exchange import to_torch

    import mindspore

    return to_torch(value) if isinstance(value, mindspore.Tensor) else None
