"""Makes a lock of what is here, and compares a lock with what is here."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from mszoo.registry.availability import installed_version
from mszoo.registry.errors import LockError
from mszoo.registry.fingerprints import code_hash, module_hash
from mszoo.registry.lock import Lock, LockedAdapter, LockedDecisions, LockedPlugin
from mszoo.registry.plugins import Plugin, Problem
from mszoo.registry.validation import parse_requirement

if TYPE_CHECKING:
    from mszoo.registry.catalog import Candidate, Catalog, Decision

_SHOWN = 5


def make_lock(catalog: Catalog) -> Lock:
    """Return the lock of a catalog's plugins and decisions."""
    models, layers, ops = (_chains(decisions) for decisions in _decisions(catalog))
    chosen = [
        item
        for decisions in _decisions(catalog)
        for decision in decisions.values()
        for item in decision.chain
    ]
    entry_points = catalog.discovery.entry_points
    return Lock(
        mszoo=importlib.metadata.version("mszoo"),
        device=catalog.device,
        digest=catalog.digest(),
        kernels=catalog.settings.kernels,
        prefer=catalog.settings.prefer,
        requires=_requires(chosen),
        plugins={
            plugin.name: _locked_plugin(
                plugin, entry_point.dist, [item for item in chosen if item.plugin == plugin]
            )
            for plugin, entry_point in entry_points.items()
        },
        models=models,
        layers=layers,
        ops=ops,
    )


def plugin_differences(lock: Lock, plugin: Plugin, entry_point: EntryPoint) -> list[Problem]:
    """Compare a plugin that the lock lists with its files, before any of them is imported."""
    locked = lock.plugins[plugin.name]
    who = f"plugin {plugin.name!r}"
    if plugin.version != locked.version:
        what = f"is of {plugin.distribution} {plugin.version}, and {locked.version} is locked"
        mend = f"pip install {plugin.distribution}=={locked.version}"
        return [_difference(who, what, plugin.name, mend)]
    if plugin.value != locked.entry_point:
        what = f"its entry point is {plugin.value}, and {locked.entry_point} is locked"
        return [_difference(who, what, plugin.name, _reinstall(plugin))]
    changed = [module for module, text in locked.modules.items() if module_hash(module) != text]
    if changed:
        what = f"the code of {', '.join(changed)} is not what was locked"
        return [_difference(who, what, plugin.name, _reinstall(plugin))]
    if code_hash(entry_point.dist, _module(plugin.value)) != locked.code:
        what = f"the code of {plugin.distribution} {plugin.version} is not what was locked"
        return [_difference(who, what, plugin.name, _reinstall(plugin))]
    return []


def differences(lock: Lock, catalog: Catalog) -> tuple[Problem, ...]:
    """Return all in which a catalog, made under this lock, differs from it; each names what and how to mend it.

    Args:
        lock: what must be.
        catalog: what is; its discovery was given the lock.
    """
    found = [*_setting_differences(lock, catalog), *catalog.discovery.differences, *_missing(lock, catalog)]
    # What follows from other plugins, another device or other settings needs no naming of its own.
    return tuple(found or _consequences(lock, catalog))


def enforce(path: Path, found: Iterable[Problem]) -> None:
    """Refuse to go on if anything differs from the lock at ``path``.

    Raises:
        LockError: naming what differs.
    """
    items = list(found)
    if not items:
        return
    shown = "; ".join(f"{item.who}: {item.what}" for item in items[:_SHOWN])
    more = f"; and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    mend = f"Mend it ({items[0].mend.rstrip('.')}), accept it with `mszoo lock {path}`, or unset MSZOO_LOCK."
    raise LockError(f"MSZOO_LOCK={path}", f"nothing is served, this differs: {shown}{more}", mend)


def _setting_differences(lock: Lock, catalog: Catalog) -> Iterator[Problem]:
    here = importlib.metadata.version("mszoo")
    if here != lock.mszoo:
        yield _difference(
            "mszoo", f"is {here}, and {lock.mszoo} is locked", None, f"pip install mszoo=={lock.mszoo}"
        )
    if catalog.device != lock.device:
        what = f"is {catalog.device}, and {lock.device} is locked"
        yield _difference(
            "the device", what, None, f"Write one lock for each device: mszoo lock --device {catalog.device}"
        )
    settings = catalog.settings
    pairs = {
        "MSZOO_KERNELS": (settings.kernels, lock.kernels),
        "MSZOO_PREFER": (",".join(settings.prefer), ",".join(lock.prefer)),
    }
    for name, (now, locked) in pairs.items():
        if now != locked:
            what = f"is {now or 'empty'}, and {locked or 'empty'} is locked"
            yield _difference(name, what, None, f"export {name}={locked}" if locked else f"unset {name}")


def _missing(lock: Lock, catalog: Catalog) -> Iterator[Problem]:
    discovery = catalog.discovery
    disabled = {plugin.name for plugin in discovery.disabled}
    differing = {problem.plugin for problem in discovery.differences}
    failed = {problem.plugin: problem for problem in discovery.problems}
    for name in sorted(lock.plugins.keys() - {plugin.name for plugin in discovery.plugins} - differing):
        locked, who = lock.plugins[name], f"plugin {name!r}"
        if name in disabled:
            yield _difference(who, "is locked, and MSZOO_DISABLE leaves it out", name, "unset MSZOO_DISABLE")
        elif name in failed:
            yield _difference(who, f"is locked, and {failed[name].what}", name, failed[name].mend)
        else:
            what = f"is locked, and {locked.distribution} {locked.version} with it is not installed"
            yield _difference(who, what, name, f"pip install {locked.distribution}=={locked.version}")


def _consequences(lock: Lock, catalog: Catalog) -> Iterator[Problem]:
    mend = "Find out why with `mszoo explain`."
    now = make_lock(catalog)
    for name, version in sorted(lock.requires.items()):
        here = installed_version(name)
        if here != version:
            what = f"is {here or 'not installed'}, and {version or 'none'} is locked"
            yield _difference(f"distribution {name}", what, None, f"pip install {name}=={version}")
    for kind, chains, locked in (
        ("architecture", now.models, lock.models),
        ("layer", now.layers, lock.layers),
        ("op", now.ops, lock.ops),
    ):
        for name in sorted({*chains, *locked}):
            if chains.get(name, ()) != locked.get(name, ()):
                what = f"is served by {_served(chains.get(name))}, and {_served(locked.get(name))} is locked"
                yield _difference(f"{kind} {name}", what, None, mend)
    if now.digest != lock.digest:
        yield _difference("the digest", f"is {now.digest}, and {lock.digest} is locked", None, mend)


def _served(chain: tuple[LockedAdapter, ...] | None) -> str:
    if not chain:
        return "vLLM's own"
    return " before ".join(f"{item.adapter} ({item.code})" for item in chain)


def _decisions(catalog: Catalog) -> tuple[Mapping[str, Decision], ...]:
    return catalog.decisions(), catalog.layer_decisions(), catalog.op_decisions()


def _chains(decisions: Mapping[str, Decision]) -> LockedDecisions:
    return {
        name: tuple(
            LockedAdapter(item.qualified_name, item.adapter.implementation) for item in decision.chain
        )
        for name, decision in decisions.items()
        if decision.chain
    }


def _requires(chosen: Iterable[Candidate]) -> dict[str, str | None]:
    texts = {text for item in chosen for text in (*item.suite.requires, *item.adapter.requires)}
    names = {canonicalize_name(parse_requirement(text).name) for text in texts}
    return {name: installed_version(name) for name in sorted(names)}


def _locked_plugin(
    plugin: Plugin, distribution: Distribution | None, chosen: Iterable[Candidate]
) -> LockedPlugin:
    modules = {_module(plugin.value), *(_module(item.adapter.implementation) for item in chosen)}
    return LockedPlugin(
        distribution=plugin.distribution,
        version=plugin.version,
        entry_point=plugin.value,
        code=code_hash(distribution, _module(plugin.value)),
        modules={name: module_hash(name) for name in sorted(modules)},
    )


def _module(path: str) -> str:
    """Return the module of ``module:object``, as an entry point spells it."""
    return path.partition(":")[0].partition("[")[0].strip()


def _reinstall(plugin: Plugin) -> str:
    return f"pip install --force-reinstall --no-deps {plugin.distribution}=={plugin.version}"


def _difference(who: str, what: str, plugin: str | None, mend: str) -> Problem:
    return Problem(who, what, mend, plugin)
