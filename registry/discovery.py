"""Discovers what the installed plugins contribute; one bad plugin never stops the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, TypeVar

import pluggy

from mszoo.registry import hookspecs
from mszoo.registry.containment import contained, plugin_is_running
from mszoo.registry.entry_points import Plugin
from mszoo.registry.errors import MszooError, PluginError, Problem, RecordError, RefusalError, SettingsError
from mszoo.registry.hookcalls import call_hook, describe, stdout_guarded
from mszoo.registry.plugins import load_plugins, trace_problems
from mszoo.registry.records import LayerAdapter, ModelAdapter, OpAdapter, Suite
from mszoo.registry.settings import Settings

# A lock is rare.
if TYPE_CHECKING:
    from mszoo.registry.lock import Lock

_MOST_RECORDS = 10_000  # of one hook; an endless generator would stop everything
_OUR_ERRORS = (MszooError, PluginError, RecordError, RefusalError, SettingsError)

_R = TypeVar("_R", Suite, ModelAdapter, LayerAdapter, OpAdapter)


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
    """Calls one plugin's hooks and keeps the good records; the rest becomes Problems."""

    def __init__(self, manager: pluggy.PluginManager, plugin: Plugin, problems: list[Problem]) -> None:
        self._manager = manager
        self.plugin = plugin
        self._problems = problems

    def report(self, what: str, hint: str) -> None:
        """Add a problem of this plugin."""
        self._problems.append(Problem(str(self.plugin), what, hint, self.plugin.name))

    def suite(self) -> Suite | None:
        """Return the plugin's suite, by default one of the plugin's name; None if its mszoo_suite is bad.

        Without its suite the adapters can't be kept: the suite says what they require.
        """
        try:
            values = list(self._values("mszoo_suite"))
            suite = values[0] if values else self._default_suite()
            if type(suite) is not Suite:
                what = f"mszoo_suite returned {_kind(suite)} instead of a Suite"
                raise PluginError(str(self.plugin), what, "Return one mszoo.registry.Suite.")
            suite = _checked(suite)
        except MszooError as error:
            self.report(f"{error.what}; all its adapters are skipped", error.hint)
            return None
        return suite

    def _default_suite(self) -> Suite:
        try:
            return Suite(self.plugin.name)
        except MszooError as error:
            what = "has no mszoo_suite, and its own name can't be that of a suite"
            raise PluginError(str(self.plugin), what, "Add an mszoo_suite hook.") from error

    def records(self, hook: str, record_type: type[_R]) -> tuple[_R, ...]:
        """Return the records of one hook that are of the right type."""
        records: list[_R] = []
        try:
            for value in self._values(hook):
                # A record is accepted for what it is; a string or mapping would be taken apart.
                if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
                    what = f"{hook} returned {_kind(value)} instead of an iterable"
                    self.report(what, f"Return a list of {record_type.__name__} records.")
                else:
                    self._add(hook, record_type, value, records)
        except MszooError as error:
            self.report(error.what, error.hint)
        return tuple(records)

    def _add(self, hook: str, record_type: type[_R], values: Iterable[object], records: list[_R]) -> None:
        index = 0
        try:
            # A generator runs the plugin's code here.
            with stdout_guarded():
                for value in values:
                    if index == _MOST_RECORDS:
                        records.clear()
                        what = f"{hook} gives more than {_MOST_RECORDS} records; all are ignored"
                        self.report(what, "Give one record per model, layer or op.")
                        return
                    if type(value) is record_type:
                        records.append(_checked(value))
                    else:
                        what = f"item {index} of {hook} is {_kind(value)} instead of a {record_type.__name__}"
                        self.report(f"{what}; it is skipped", f"Return {record_type.__name__} records only.")
                    index += 1
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            what = f"{hook} raised after {index} items" if index else f"{hook} raised"
            raise self._failure(what, error) from error

    def _values(self, hook: str) -> Iterator[object]:
        for outcome in call_hook(self._manager, hook, plugin=self.plugin.name):
            if outcome.error is not None:
                raise self._failure(f"{hook} raised", outcome.error) from outcome.error
            yield outcome.value

    def _failure(self, what: str, error: BaseException) -> PluginError:
        who = str(self.plugin)
        if type(error) in _OUR_ERRORS:
            assert isinstance(error, MszooError)
            # Our own error, such as RecordError, knows better what to do.
            return PluginError(who, f"{what} {type(error).__name__}: {error.who}: {error.what}", error.hint)
        return PluginError(who, f"{what} {describe(error)}", self.plugin.cure)


def _checked(record: _R) -> _R:
    """Return a record as its constructor makes it.

    Raises:
        RecordError: it lacks fields, or holds values that its constructor refuses.
    """
    if record.is_as_made():
        return record
    try:
        values = {item.name: getattr(record, item.name) for item in fields(record)}
    except AttributeError as error:
        hint = f"Call {type(record).__name__}() with all its arguments."
        raise RecordError(f"a {type(record).__name__}", f"lacks a field ({describe(error)})", hint) from error
    checked = type(record)(**values)
    # The same object where nothing is wrong: mszoo_select tells equal records apart by identity.
    return record if checked == record else checked


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
