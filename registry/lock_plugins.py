"""What a lock holds of plugins and their code: compared before any of it is imported, and held to from then on."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, EntryPoint

from mszoo.registry.allowed import allow
from mszoo.registry.decisions import Candidate
from mszoo.registry.entry_points import Plugin
from mszoo.registry.errors import LockError, Problem
from mszoo.registry.fingerprints import LOADER, codes_of, module_hash
from mszoo.registry.lock import Lock, LockedPlugin
from mszoo.registry.lock_guard import differences_of, few, guard

OWN = "mszoo"


def locked_plugin(plugin: Plugin, chosen: Iterable[Candidate]) -> LockedPlugin:
    """Return what a lock says of a plugin and of the candidates of it that were chosen."""
    modules = {_module(plugin.value), *(_module(item.adapter.implementation) for item in chosen)}
    return LockedPlugin(
        distribution=plugin.distribution,
        version=plugin.version,
        entry_point=plugin.value,
        modules={name: module_hash(name) for name in sorted(modules)},
    )


def locked_code(entry_points: Mapping[Plugin, EntryPoint]) -> dict[str, dict[str, str]]:
    """Return the hashes of all code of the plugins' distributions, and of mszoo's."""
    found = {OWN: codes_of(_own(), OWN)}
    for plugin, entry_point in entry_points.items():
        if plugin.distribution not in found:
            found[plugin.distribution] = codes_of(entry_point.dist, _module(plugin.value))
    return {name: {key: code.hash for key, code in codes.found.items()} for name, codes in found.items()}


class LockedCode:
    """Compares what is here with a lock, distribution by distribution, and holds to it what is imported later."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._guard = guard()
        self._clauses: dict[str, list[str]] = {}
        self._told: set[str] = set()

    def own_differences(self) -> list[Problem]:
        """Compare mszoo's own code; what differs is told here where no plugin that the lock lists tells it."""
        clauses = self._of_distribution(OWN, _own(), OWN)
        if any(item.distribution == OWN for item in self._lock.plugins.values()):
            return []
        version = importlib.metadata.version(OWN)
        hint = f"pip install --force-reinstall --no-deps {OWN}=={version}"
        return [Problem(OWN, "; ".join(clauses), hint)] if clauses else []

    def plugin_differences(self, plugin: Plugin, entry_point: EntryPoint) -> list[Problem] | None:
        """Compare a plugin that the lock lists with its files; None if all is as locked.

        What differs in the code of a distribution is told once, for all of its plugins.
        """
        locked = self._lock.plugins[plugin.name]
        who = f"plugin {plugin.name!r}"
        if plugin.version != locked.version:
            what = f"is of {plugin.distribution} {plugin.version}, and {locked.version} is locked"
            hint = f"pip install {plugin.distribution}=={locked.version}"
            return [Problem(who, what, hint, plugin.name)]
        if plugin.value != locked.entry_point:
            what = f"its entry point is {plugin.value}, and {locked.entry_point} is locked"
            return [Problem(who, what, _reinstall(plugin), plugin.name)]
        clauses = self._of_distribution(plugin.distribution, entry_point.dist, _module(plugin.value))
        own = self._lock.code.get(plugin.distribution, {})
        others = {name: text for name, text in locked.modules.items() if name not in own}
        changed = [name for name, text in others.items() if module_hash(name) != text]
        found = []
        if clauses and plugin.distribution not in self._told:
            self._told.add(plugin.distribution)
            names = [
                repr(name)
                for name, item in self._lock.plugins.items()
                if item.distribution == plugin.distribution
            ]
            all_of_it = f"plugin{'s' * (len(names) > 1)} {', '.join(sorted(names))}"
            found.append(Problem(all_of_it, "; ".join(clauses), _reinstall(plugin), plugin.name))
        if changed:
            what = f"the code of {', '.join(changed)} is not what was locked"
            found.append(Problem(who, what, _reinstall(plugin), plugin.name))
        if clauses or changed:
            return found
        self._guard.expected |= {name: text for name, text in others.items() if text is not None}
        return None

    def check(self, plugin: Plugin, entry_point: EntryPoint) -> None:
        """Compare the distribution of an entry point of another group, before it is loaded.

        Raises:
            LockError: its code is not what was locked.
        """
        clauses = self._of_distribution(plugin.distribution, entry_point.dist, _module(plugin.value))
        if clauses:
            raise LockError(plugin.distribution, "; ".join(clauses), f"Run {_reinstall(plugin)}.")

    def _of_distribution(self, name: str, distribution: Distribution | None, module: str) -> list[str]:
        if name not in self._clauses:
            found = codes_of(distribution, module)
            locked = self._lock.code.get(name, {})
            self._clauses[name] = differences_of(locked, found.found)
            if not self._clauses[name]:
                self._guard.hold(locked, found)
                allow(name)
        return self._clauses[name]


def unhashable(code: Mapping[str, Mapping[str, str]]) -> list[Problem]:
    """Return what of a lock's code can't be held to, since nobody knows what its loader runs."""
    found = []
    for distribution, hashes in code.items():
        names = [name for name, text in hashes.items() if text.startswith(LOADER)]
        for loader in sorted({hashes[name].removeprefix(LOADER) for name in names}):
            which = few(name for name in names if hashes[name] == f"{LOADER}{loader}")
            what = (
                f"{which} is loaded by {loader}, which may run anything, so nothing is served under this lock"
            )
            found.append(
                Problem(f"distribution {distribution}", what, "Install it as a wheel, and lock it again.")
            )
    return found


def _own() -> Distribution | None:
    try:
        return importlib.metadata.distribution(OWN)
    except importlib.metadata.PackageNotFoundError:
        return None


def _module(path: str) -> str:
    """Return the module of ``module:object``, as an entry point spells it."""
    return path.partition(":")[0].partition("[")[0].strip()


def _reinstall(plugin: Plugin) -> str:
    return f"pip install --force-reinstall --no-deps {plugin.distribution}=={plugin.version}"
