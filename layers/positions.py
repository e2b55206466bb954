"""The token positions of the step that a suite's network runs.

A suite hands its layers cosines and sines that it looked up by position. Layers of mszoo look them up themselves,
in a table that vLLM's length decides, so they need the positions, which suites don't pass on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mindspore as ms

_positions: ContextVar[ms.Tensor] = ContextVar("mszoo_positions")


@contextlib.contextmanager
def running_at(positions: ms.Tensor) -> Iterator[None]:
    """Make ``positions`` [T] those of the network that runs inside."""
    token = _positions.set(positions)
    try:
        yield
    finally:
        _positions.reset(token)


def positions() -> ms.Tensor:
    """Return the positions [T] of the step that is running.

    Raises:
        LookupError: no network is running.
    """
    return _positions.get()
