"""The names of the ops that an OpAdapter can implement: those who specify ops declare them in an entry point."""

from __future__ import annotations

import functools

from mszoo.registry.allowed import allowed
from mszoo.registry.containment import caught, contained
from mszoo.registry.entry_points import ordered, readable
from mszoo.registry.errors import Problem
from mszoo.registry.text import describe, plain_text

#: Each entry point of the group loads a mapping by name of op.
GROUP = "mszoo.ops"


def known_ops() -> tuple[str, ...]:
    """Return the names of the op specs; mszoo's own are those of mszoo.kernels.spec."""
    return _read(allowed())[0]


def ops_problems() -> tuple[Problem, ...]:
    """Return what is wrong with those who specify ops; what they specify is unknown then."""
    return _read(allowed())[1]


@functools.cache
def _read(only: frozenset[str] | None) -> tuple[tuple[str, ...], tuple[Problem, ...]]:
    names: list[str] = []
    found, problems = readable(GROUP)
    for source, entry_point in ordered(found):
        if only is not None and source.distribution not in only:
            continue
        with contained() as traces, caught() as failure:
            names += [plain_text(name) for name in entry_point.load()]
        who = f"ops {source.name!r} of {source.source}"
        faults = [f"can't be loaded ({describe(failure.error)})"] if failure.error is not None else []
        for what in (*faults, *(item.what for item in traces)):
            problems.append(Problem(who, what, f"Fix or upgrade {source.distribution}, or uninstall it."))
    return tuple(names), tuple(problems)
