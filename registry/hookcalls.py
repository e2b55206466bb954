"""Calls hooks plugin by plugin, so that one failing plugin is named and the others go on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pluggy

from mszoo.registry.containment import caught, contained
from mszoo.registry.process_state import Trace


@dataclass(frozen=True)
class Outcome:
    """What one plugin's implementation of a hook gave: a value, or the error that it raised; and its traces."""

    plugin: str
    value: Any = None
    error: BaseException | None = None
    traces: tuple[Trace, ...] = ()


def call_hook(
    manager: pluggy.PluginManager, hook: str, arguments: Mapping[str, Any] | None = None
) -> Iterator[Outcome]:
    """Call a hook's implementations one by one in pluggy's order (last registered first), contained; never raises.

    Args:
        manager: the plugin manager of a Discovery.
        hook: the hook's name.
        arguments: the hook's arguments; an implementation gets those it names.
    """
    for plugin, implementation in implementations(manager, hook):
        with contained() as traces:
            outcome = call(plugin, implementation, arguments)
        yield Outcome(plugin, outcome.value, outcome.error, tuple(traces))


def implementations(manager: pluggy.PluginManager, hook: str) -> list[tuple[str, pluggy.HookImpl]]:
    """Return the plugins that implement a hook, and their implementations, in pluggy's order."""
    found = getattr(manager.hook, hook).get_hookimpls()
    return [(item.plugin_name, item) for item in reversed(found)]


def call(plugin: str, implementation: pluggy.HookImpl, arguments: Mapping[str, Any] | None = None) -> Outcome:
    """Call one implementation of a hook; what contains it is the caller's."""
    value = None
    with caught() as failure:
        value = implementation.function(*[(arguments or {})[name] for name in implementation.argnames])
    return Outcome(plugin, value, failure.error)
