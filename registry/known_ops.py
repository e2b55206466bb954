"""The names of the ops that an OpAdapter can implement: those who specify ops declare them in an entry point."""

from __future__ import annotations

import functools

from mszoo.registry.entry_points import readable

#: Each entry point of the group loads a mapping by name of op.
GROUP = "mszoo.ops"


@functools.cache
def known_ops() -> tuple[str, ...]:
    """Return the names of the op specs; mszoo's own are those of mszoo.kernels.spec."""
    return tuple(name for item in readable(GROUP)[0] for name in item.load())
