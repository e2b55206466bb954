"""Finds, loads and checks plugins: from entry points to objects registered with the plugin manager."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

import pluggy

from mszoo.registry import hookspecs
from mszoo.registry.containment import caught, contained
from mszoo.registry.entry_points import Plugin, ordered, readable
from mszoo.registry.errors import PluginError, Problem
from mszoo.registry.process_state import Trace
from mszoo.registry.settings import Settings
from mszoo.registry.text import class_name, describe, printable

# A lock is rare.
if TYPE_CHECKING:
    from mszoo.registry.lock import Lock
    from mszoo.registry.lock_plugins import LockedCode

GROUP = "mszoo"
_LONGEST_NAME = 80
_LONGEST_WARNING = 300
_ENTRY_POINT_VALUE = re.compile(r"[\w.]+(\s*:\s*[\w.]+)?(\s*\[.*\])?")


@dataclass
class Loaded:
    """What became of the plugins, and what went wrong.

    Attributes:
        plugins: those that were registered.
        entry_points: theirs.
        disabled: those that MSZOO_DISABLE left out.
        unlisted: those that the lock doesn't list.
        problems: what went wrong and did not stop the rest.
        differences: in which plugins that the lock lists differ from it; those were not imported.
    """

    plugins: list[Plugin] = field(default_factory=list)
    entry_points: dict[Plugin, EntryPoint] = field(default_factory=dict)
    disabled: list[Plugin] = field(default_factory=list)
    unlisted: list[Plugin] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    differences: list[Problem] = field(default_factory=list)


def load_plugins(
    manager: pluggy.PluginManager,
    settings: Settings,
    entry_points: Iterable[EntryPoint] | None,
    lock: Lock | None = None,
) -> Loaded:
    """Load the plugins that the settings allow and register them; a bad one becomes a Problem.

    Args:
        manager: has mszoo's hookspecs.
        settings: which plugins are disabled; those are not imported.
        entry_points: those of group ``mszoo``; None for those of the installed distributions.
        lock: which plugins may be imported, and what their code must be; None for no such limit.
    """
    loaded = Loaded()
    if entry_points is None:
        entry_points, loaded.problems = readable(GROUP)
    if settings.plugins:
        # Imported here: it is for trying.
        from mszoo.registry.unpackaged import unpackaged

        # A lock lists distributions, so it lists none of them.
        importable = lock is None and not settings.disabled_all
        more, problems = unpackaged(settings.plugins, GROUP, importable=importable)
        entry_points = [*entry_points, *more]
        loaded.problems += problems
    code = None if lock is None else _locked_code(lock)
    if code is not None:
        loaded.differences += code.own_differences()
    owners: dict[str, Plugin] = {}
    targets: list[tuple[str, object]] = []
    for plugin, entry_point in ordered(entry_points):
        if lock is not None and not lock.lists(plugin.name, plugin.distribution):
            loaded.unlisted.append(plugin)
            continue
        first = owners.setdefault(plugin.name, plugin)
        if settings.disabled_all or plugin.name in settings.disabled:
            loaded.disabled.append(plugin)
        elif first is not plugin:
            what = f"has the name of {first}, which was found first; this one is skipped"
            hint = f"Uninstall {first.distribution} or {plugin.distribution}, or rename one entry point."
            loaded.problems.append(Problem(str(plugin), what, hint, plugin.name))
        elif code is not None and (changes := code.plugin_differences(plugin, entry_point)) is not None:
            loaded.differences += changes
        else:
            with contained() as traces:
                try:
                    loaded.problems += _load(manager, plugin, entry_point, targets)
                    loaded.plugins.append(plugin)
                    loaded.entry_points[plugin] = entry_point
                except PluginError as error:
                    loaded.problems.append(Problem(error.who, error.what, error.hint, plugin.name))
            loaded.problems += trace_problems(plugin, "it was loaded", traces)
    known = owners.keys() | {plugin.name for plugin in loaded.unlisted}
    for name in sorted(settings.disabled - known):
        hint = f"Known plugins: {', '.join(sorted(known)) or 'none'}."
        loaded.problems.append(Problem("MSZOO_DISABLE", f"names {name!r}, which is not a plugin", hint))
    return loaded


def _locked_code(lock: Lock) -> LockedCode:
    from mszoo.registry.lock_plugins import LockedCode

    return LockedCode(lock)


def trace_problems(plugin: Plugin, when: str, traces: Iterable[Trace]) -> list[Problem]:
    """Return what a plugin did to the process as problems."""
    return [Problem(str(plugin), f"{item.what}, when {when}", item.hint, plugin.name) for item in traces]


class _Implementations:
    """What pluggy gets in place of a plugin's object, which it would compare with others: the hooks alone."""

    def __init__(self, hooks: dict[str, object]) -> None:
        vars(self).update(hooks)


def _load(
    manager: pluggy.PluginManager,
    plugin: Plugin,
    entry_point: EntryPoint,
    targets: list[tuple[str, object]],
) -> list[Problem]:
    """Import a plugin and register it; returns its lesser faults, raises PluginError for the others.

    Args:
        manager: gets the hooks.
        plugin: which one.
        entry_point: loads it.
        targets: the objects of the plugins before it, and their names; gets this one's.
    """
    if _ENTRY_POINT_VALUE.fullmatch(plugin.value) is None:
        hint = "Write 'module' or 'module:object'."
        raise PluginError(str(plugin), f"its entry point is {plugin.value!r}", hint)
    package = entry_point.module.partition(".")[0]
    if package in sys.stdlib_module_names:
        what = f"its module {package} has the name of a module of Python's standard library"
        hint = "Rename the module: whichever comes first on the path hides the other."
        raise PluginError(str(plugin), what, hint)
    problems: list[Problem] = []
    refusal: PluginError | None = None
    with caught() as failure:
        try:
            target = entry_point.load()
            hooks, problems = _hooks(manager, plugin, target, targets)
            problems += _unmarked(manager, plugin, target)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                manager.register(_Implementations(hooks), plugin.name)
            for item in told:  # pluggy's word for hooks and arguments that are to go
                what = f"uses what is to go: {printable(str(item.message), _LONGEST_WARNING)}"
                problems.append(Problem(str(plugin), what, plugin.cure, plugin.name))
            targets.append((plugin.name, target))
        except PluginError as error:
            # One of our own says what to do; one that the plugin raised is a failure like others.
            if error.who != str(plugin):
                raise
            refusal = error
    if refusal is not None:
        raise refusal
    if failure.error is not None:
        what = f"can't be loaded ({describe(failure.error)})"
        raise PluginError(str(plugin), what, plugin.cure) from failure.error
    return problems


def _arguments(manager: pluggy.PluginManager) -> dict[str, tuple[str, ...]]:
    names = [name for name in vars(hookspecs) if name.startswith("mszoo_")]
    return {name: tuple(getattr(manager.hook, name).spec.argnames) for name in names}


def _hooks(
    manager: pluggy.PluginManager, plugin: Plugin, target: object, targets: list[tuple[str, object]]
) -> tuple[dict[str, object], list[Problem]]:
    """Return a plugin's hooks by name; refuse what pluggy would accept in silence, or refuse without a cure.

    Hooks and arguments that this mszoo doesn't have are a newer one's: those hooks are problems, the others count.
    """
    who = str(plugin)
    if isinstance(target, type):
        what = f"its entry point names the class {class_name(target)}, not an object"
        raise PluginError(who, what, "Let the entry point name a module or an instance.")
    other = next((name for name, item in targets if item is target), None)
    if other is not None:
        what = f"its entry point names the same object as plugin {other!r}"
        raise PluginError(who, what, "Remove one of the two entry points.")
    known = _arguments(manager)
    hooks: dict[str, object] = {}
    problems: list[Problem] = []
    for name in dir(target):
        options = manager.parse_hookimpl_opts(target, name)
        if options is None:
            continue
        hook = options.get("specname") or name
        if hook not in known:
            nearest = difflib.get_close_matches(hook, known, n=1, cutoff=0.7)
            slip = f"Did you mean {nearest[0]}? It is ignored: it" if nearest else "It is ignored: it"
            what = f"{printable(hook, _LONGEST_NAME)} is not a hook"
            hint = f"{slip} needs a newer mszoo. The hooks are {', '.join(known)}."
            problems.append(Problem(who, what, hint, plugin.name))
            continue
        if options.get("wrapper") or options.get("hookwrapper"):
            raise PluginError(who, f"{name} is a hook wrapper", "Use plain @hookimpl.")
        implementation = getattr(target, name)
        parameters = inspect.signature(implementation).parameters.values()
        needed = [item for item in parameters if item.default is item.empty]
        positional = [item.name for item in needed if item.kind < item.VAR_POSITIONAL]
        unknown = [argument for argument in positional if argument not in known[hook]]
        if unknown:
            hint = f"Define it as {hook}({', '.join(known[hook])}). As it is, it needs a newer mszoo."
            what = f"{name} has an unknown argument {unknown[0]!r}, so it is ignored"
            problems.append(Problem(who, what, hint, plugin.name))
            continue
        hooks[name] = implementation
    if not hooks and not problems:
        hint = "Did you forget @hookimpl? Import it from mszoo.registry and put it on each hook."
        raise PluginError(who, "has no hook implementation", hint)
    return hooks, problems


def _unmarked(manager: pluggy.PluginManager, plugin: Plugin, target: object) -> list[Problem]:
    """Report functions that have the name of a hook and lack the mark: they would never be called."""
    what = "is not marked as a hook, so it is ignored"
    return [
        Problem(str(plugin), f"{name} {what}", "Put @hookimpl on it.", plugin.name)
        for name in _arguments(manager)
        if callable(getattr(target, name, None)) and manager.parse_hookimpl_opts(target, name) is None
    ]
