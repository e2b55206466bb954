"""Runs a plugin's code where a model is built: what fails or misbehaves is told, and ends nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mszoo.registry.containment import Failure, caught, contained
from mszoo.registry.errors import sentence


@contextmanager
def stage(who: str, when: str) -> Iterator[Failure]:
    """Run a plugin's code; gives what it raised, if anything, when it is left.

    What it did to the process is undone where possible, and logged. Large libraries may be imported.

    Args:
        who: whose code, for the log.
        when: a clause in the past tense: what its code was asked for.
    """
    with contained(heavy=True, prints=True) as traces, caught() as failure:
        yield failure
    if not traces:
        return
    from mszoo.adapters.vllm.log import log  # the command runs without vLLM, and loads this

    for trace in traces:
        log.warning_once("mszoo: %s", sentence(who, f"{trace.what}, when {when}", trace.hint))
