"""What a lock holds of one plugin: the hashes of its code, compared before any of it is imported."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import Distribution, EntryPoint

from mszoo.registry.decisions import Candidate
from mszoo.registry.entry_points import Plugin
from mszoo.registry.errors import Problem
from mszoo.registry.fingerprints import code_hash, module_hash
from mszoo.registry.lock import Lock, LockedPlugin


def locked_plugin(
    plugin: Plugin, distribution: Distribution | None, chosen: Iterable[Candidate]
) -> LockedPlugin:
    """Return what a lock says of a plugin and of the candidates of it that were chosen."""
    modules = {_module(plugin.value), *(_module(item.adapter.implementation) for item in chosen)}
    return LockedPlugin(
        distribution=plugin.distribution,
        version=plugin.version,
        entry_point=plugin.value,
        code=code_hash(distribution, _module(plugin.value)),
        modules={name: module_hash(name) for name in sorted(modules)},
    )


def plugin_differences(lock: Lock, plugin: Plugin, entry_point: EntryPoint) -> list[Problem]:
    """Compare a plugin that the lock lists with its files, before any of them is imported."""
    locked = lock.plugins[plugin.name]
    who = f"plugin {plugin.name!r}"
    if plugin.version != locked.version:
        what = f"is of {plugin.distribution} {plugin.version}, and {locked.version} is locked"
        hint = f"pip install {plugin.distribution}=={locked.version}"
        return [Problem(who, what, hint, plugin.name)]
    if plugin.value != locked.entry_point:
        what = f"its entry point is {plugin.value}, and {locked.entry_point} is locked"
        return [Problem(who, what, _reinstall(plugin), plugin.name)]
    changed = [module for module, text in locked.modules.items() if module_hash(module) != text]
    if changed:
        what = f"the code of {', '.join(changed)} is not what was locked"
        return [Problem(who, what, _reinstall(plugin), plugin.name)]
    if code_hash(entry_point.dist, _module(plugin.value)) != locked.code:
        what = f"the code of {plugin.source} is not what was locked"
        return [Problem(who, what, _reinstall(plugin), plugin.name)]
    return []


def _module(path: str) -> str:
    """Return the module of ``module:object``, as an entry point spells it."""
    return path.partition(":")[0].partition("[")[0].strip()


def _reinstall(plugin: Plugin) -> str:
    return f"pip install --force-reinstall --no-deps {plugin.distribution}=={plugin.version}"
