"""One step of a built network, without weights and without a KV cache: it proves that its parts fit together.

It takes the path of vLLM's memory profiling: no attention metadata, so nothing attends and no whole layer or graph
is compiled. Products give zeros of the right shape (:mod:`mszoo.layers.dry`): what multiplies packs its weight
after loading. So the step shows that the network runs, and of what shape and dtype its results are; it doesn't show
their values, nor that the kernels which multiply and attend can.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from mszoo.adapters.vllm.log import log
from mszoo.registry.containment import asks_to_end
from mszoo.registry.decisions import Candidate
from mszoo.registry.errors import MszooError, RefusalError

#: Few, more than one, and unlike most sizes of a model.
TOKENS = 3
_HINT = "Serve the model with another implementation, or mend this one"

_running: list[bool] = []


def is_running() -> bool:
    """Return whether a dry step runs in this process right now: who waits for vLLM's steps ignores it."""
    return bool(_running)


def prove(candidate: Candidate, network: Any, vllm_config: Any, device: str) -> None:
    """Run one step and look at what comes out: hidden states [T, hidden], and logits [T, vocab] of a decoder.

    Every rank of tensor parallelism has to come here. A stage of a pipeline gives what its part gives.

    Raises:
        RefusalError: the step raised, or gave another shape or dtype.
    """
    # Imported here: half of vLLM comes with it, and registration runs in every process.
    from mszoo.adapters.vllm.seam import create_forward_context, override_forward_context
    from mszoo.layers import dry
    from mszoo.layers.draft import DraftHead

    who = candidate.qualified_name
    obstacle = _obstacle_on(device, network) or dry.obstacle(network)
    if obstacle is not None:
        log.info("mszoo: %s: no dry step before loading: %s", who, obstacle)
        return
    try:
        with (
            torch.inference_mode(),
            _marked(),
            override_forward_context(create_forward_context(None, vllm_config)),
            dry.without_products(network),
        ):
            model_config = vllm_config.model_config
            if isinstance(network, DraftHead):
                wrong = _step_of_head(network, model_config)
            else:
                pooling = model_config.runner_type == "pooling"
                wrong = _items(network, model_config) or _step(network, model_config, pooling=pooling)
    except MszooError as error:
        raise RefusalError(who, f"its first step raised {error.who}: {error.what}", error.hint) from error
    except (Exception, SystemExit, GeneratorExit) as error:
        if asks_to_end(error):
            raise
        what = f"its first step raised {type(error).__name__}: {_first_line(error)}"
        raise RefusalError(who, what, _HINT) from error
    if wrong is not None:
        raise RefusalError(who, f"its first step gave {wrong}", _HINT)


@contextlib.contextmanager
def _marked() -> Iterator[None]:
    _running.append(True)
    try:
        yield
    finally:
        _running.pop()


def _obstacle_on(device: str, network: Any) -> str | None:
    """Return why no step is taken on a device with memory of its own, or None."""
    from mszoo.layers import dry

    if device == "cpu":
        return None
    # vLLM's loader makes its device torch's own; mszoo explain leaves it.
    if torch.get_default_device().type != device:
        return f"it isn't built on the {device.upper()}"
    if not dry.multiplies_by_vllm(network):
        return "its products are its own, and would read weights that aren't there yet"
    return None


def _step(network: Any, model_config: Any, *, pooling: bool) -> str | None:
    """Return what is wrong about a step's results, or None."""
    from mszoo.kernels.exchange import to_mindspore

    ids, positions = torch.zeros(TOKENS, dtype=torch.int32), torch.arange(TOKENS)
    handed_over = None
    if not network.is_first_stage:
        room = network.make_empty_intermediate_tensors(TOKENS, model_config.dtype, ids.device)
        (handed_over,) = map(to_mindspore, room.values())
    given = network(to_mindspore(ids), to_mindspore(positions), handed_over)
    return _wrong_states(given, model_config, pooling=pooling) or (
        None if pooling or not network.is_last_stage else _wrong_logits(network, given, model_config)
    )


def _wrong_states(given: Any, model_config: Any, *, pooling: bool) -> str | None:
    from mszoo.adapters.vllm.models import results
    from mszoo.kernels.exchange import to_torch

    wrong: str | None = results.rows_of(given, TOKENS, "hidden states")
    if wrong is not None:
        return wrong
    hidden_states = to_torch(given)
    if pooling and hidden_states.shape[-1] != _width(model_config):
        return f"hidden states {list(hidden_states.shape)}, not [{TOKENS}, {_width(model_config)}]"
    if hidden_states.dtype != model_config.dtype:
        return f"hidden states of {_name(hidden_states.dtype)}, not of {_name(model_config.dtype)}"
    return None


def _wrong_logits(network: Any, given: Any, model_config: Any) -> str | None:
    from mszoo.adapters.vllm.models import results

    logits = network.compute_logits(given)
    if logits is None:  # a rank that doesn't gather them
        return None
    wrong: str | None = results.rows_of(logits, TOKENS, "logits")
    shape, vocabulary = tuple(getattr(logits, "shape", ())), model_config.get_vocab_size()
    if wrong is None and shape != (TOKENS, vocabulary):
        return f"logits {list(shape)} of {TOKENS} tokens, not [{TOKENS}, {vocabulary}]"
    return wrong


def _items(network: Any, model_config: Any) -> str | None:
    """Return what is wrong about the embeddings of an image or another item, or None."""
    from mszoo.kernels.exchange import to_mindspore, to_torch
    from mszoo.layers.multimodal import MultiModalLM

    if not isinstance(network, MultiModalLM):
        return None
    inputs = {name: to_mindspore(value) for name, value in network.example_inputs().items()}
    for item in network.embed_multimodal(**inputs) if inputs else ():
        found = to_torch(item)
        if (
            found.shape[1:] != (_width(model_config) * (1 + network.deepstack),)
            or found.dtype != model_config.dtype
        ):
            return f"embeddings {list(found.shape)} of {_name(found.dtype)} for one of its inputs"
    return None


def _step_of_head(network: Any, model_config: Any) -> str | None:
    """Return what is wrong about a head's step, or None; its output projection may be the target's, to come."""
    from mszoo.adapters.vllm.models import results
    from mszoo.kernels.exchange import to_mindspore, to_torch

    ids, positions = torch.zeros(TOKENS, dtype=torch.int32), torch.arange(TOKENS)
    hidden_states = to_mindspore(torch.zeros(TOKENS, _width(model_config), dtype=model_config.dtype))
    arguments = (to_mindspore(ids), to_mindspore(positions)) if network.reads_tokens else ()
    given = network(*arguments, hidden_states)
    for one in given if isinstance(given, (tuple, list)) else (given,):
        wrong: str | None = results.rows_of(one, TOKENS, "hidden states")
        if wrong is not None:
            return wrong
        found = to_torch(one)
        if found.shape != (TOKENS, _width(model_config)) or found.dtype != model_config.dtype:
            return f"hidden states {list(found.shape)} of {_name(found.dtype)} for {TOKENS} tokens"
    return None


def _width(model_config: Any) -> int:
    return int(model_config.get_hidden_size())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" -")]
    return lines[0] if lines else "(no message)"
