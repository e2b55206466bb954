"""Discovers what the installed plugins contribute; one bad plugin never stops the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

import pluggy

from mszoo.registry import hookspecs
from mszoo.registry.containment import caught, contained, plugin_is_running
from mszoo.registry.entry_points import Plugin
from mszoo.registry.errors import PluginError, Problem
from mszoo.registry.hookcalls import Outcome, call, implementations
from mszoo.registry.intake import R, newer_fault, said, take_record, take_records
from mszoo.registry.plugins import load_plugins, trace_problems
from mszoo.registry.records import LayerAdapter, ModelAdapter, OpAdapter, Suite
from mszoo.registry.settings import Settings
from mszoo.registry.text import kind

# A lock is rare.
if TYPE_CHECKING:
    from mszoo.registry.lock import Lock


@dataclass(frozen=True)
class Contribution:
    """One plugin's suite and its adapters."""

    plugin: Plugin
    suite: Suite
    models: tuple[ModelAdapter, ...] = ()
    layers: tuple[LayerAdapter, ...] = ()
    ops: tuple[OpAdapter, ...] = ()


@dataclass(frozen=True)
class Discovery:
    """All that was found.

    Args:
        contributions: one per plugin that gave a suite, in the order of `plugins`.
        problems: what went wrong and did not stop the rest.
        plugins: those that were loaded; mszoo's own first, then by name and distribution.
        manager: the plugin manager, for the hooks that are called later.
        disabled: those that MSZOO_DISABLE left out; they were not imported.
        unlisted: those that the lock in force doesn't list; they were not imported.
        differences: in which plugins differ from the lock in force; those were not imported.
        entry_points: those of ``plugins``.
    """

    contributions: tuple[Contribution, ...]
    problems: tuple[Problem, ...]
    plugins: tuple[Plugin, ...]
    manager: pluggy.PluginManager
    disabled: tuple[Plugin, ...] = ()
    unlisted: tuple[Plugin, ...] = ()
    differences: tuple[Problem, ...] = ()
    entry_points: Mapping[Plugin, EntryPoint] = field(default_factory=dict)


def discover(
    settings: Settings, entry_points: Iterable[EntryPoint] | None = None, lock: Lock | None = None
) -> Discovery:
    """Load all plugins and collect their records; never raises for a plugin's fault.

    Args:
        settings: which plugins are disabled.
        entry_points: those of group ``mszoo``; None for those of the installed distributions.
        lock: which plugins may be imported, and what their code must be; None for no such limit.

    Raises:
        PluginError: it was called by a plugin that is being discovered, and would never end.
    """
    if plugin_is_running():
        what = "a plugin asked for the catalog while it was being discovered itself"
        raise PluginError("mszoo", what, "Ask for it later: mszoo_select gets the candidates.")
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    loaded = load_plugins(manager, settings, entry_points, lock)
    problems = loaded.problems
    contributions: dict[str, Contribution] = {}
    for plugin in loaded.plugins:
        with contained() as traces:
            contribution = _collect(_Collector(manager, plugin, problems), contributions)
        problems += trace_problems(plugin, "its hooks were called", traces)
        if contribution is not None:
            contributions[contribution.suite.name] = contribution
    return Discovery(
        contributions=tuple(contributions.values()),
        problems=tuple(problems),
        plugins=tuple(loaded.plugins),
        manager=manager,
        disabled=tuple(loaded.disabled),
        unlisted=tuple(loaded.unlisted),
        differences=tuple(loaded.differences),
        entry_points=loaded.entry_points,
    )


def _collect(collector: _Collector, others: Mapping[str, Contribution]) -> Contribution | None:
    """Return what one plugin contributes; None if it has no suite of its own."""
    suite = collector.suite()
    if suite is None:
        return None
    if suite.name in others:
        what = f"its suite {suite.name!r} is already given by {others[suite.name].plugin}"
        hint = f"Give the suite another name, or set MSZOO_DISABLE={collector.plugin.name}."
        collector.report(f"{what}; this one is skipped", hint)
        return None
    return Contribution(
        plugin=collector.plugin,
        suite=suite,
        models=collector.records("mszoo_model_adapters", ModelAdapter),
        layers=collector.records("mszoo_layer_adapters", LayerAdapter),
        ops=collector.records("mszoo_op_adapters", OpAdapter),
    )


class _Collector:
    """Calls one plugin's hooks, contained, and keeps the good records; the rest becomes Problems."""

    def __init__(self, manager: pluggy.PluginManager, plugin: Plugin, problems: list[Problem]) -> None:
        self._manager = manager
        self.plugin = plugin
        self._problems = problems

    def report(self, what: str, hint: str) -> None:
        """Add a problem of this plugin."""
        self._problems.append(Problem(str(self.plugin), what, hint or self.plugin.cure, self.plugin.name))

    def suite(self) -> Suite | None:
        """Return the plugin's suite, by default one of the plugin's name; None if its mszoo_suite is bad.

        Without its suite the adapters can't be kept: the suite says what they require.
        """
        suite: Suite | None = None
        what, hint = (
            "has no mszoo_suite, and its own name can't be that of a suite",
            "Add an mszoo_suite hook.",
        )
        with caught() as failure:
            outcomes = list(self._call("mszoo_suite"))
            if not outcomes:
                suite = Suite(self.plugin.name)
            elif outcomes[0].error is not None:
                what, hint = said("mszoo_suite raised", outcomes[0].error)
            elif type(outcomes[0].value) is not Suite:
                what = f"mszoo_suite returned {kind(outcomes[0].value)} instead of a Suite"
                hint = "Return one mszoo.registry.Suite."
            else:
                what, hint = "mszoo_suite returned a bad Suite", ""
                suite = take_record(Suite, outcomes[0].value)
        if suite is None:
            if failure.error is not None and outcomes:
                what, hint = said(f"{what}:", failure.error)
            self.report(f"{what}; all its adapters are skipped", hint)
            return None
        for newer in suite.newer:
            self.report(*newer_fault(newer, [suite]))
        return suite

    def records(self, hook: str, record_type: type[R]) -> tuple[R, ...]:
        """Return the good records of one hook."""
        records: list[R] = []
        for outcome in self._call(hook):
            if outcome.error is not None:
                self.report(*said(f"{hook} raised", outcome.error))
                continue
            taken = take_records(hook, record_type, outcome.value)
            records += taken.records
            if taken.fault:
                self.report(taken.fault, taken.hint)
            for newer, users in taken.newer.items():
                self.report(*newer_fault(newer, users))
        return tuple(records)

    def _call(self, hook: str) -> Iterator[Outcome]:
        for plugin, implementation in implementations(self._manager, hook):
            if plugin == self.plugin.name:
                yield call(plugin, implementation)
