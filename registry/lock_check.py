"""Makes a lock of what is here, and compares a lock with what is here."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from packaging.utils import canonicalize_name

from mszoo.registry.availability import installed_version
from mszoo.registry.catalog import Catalog
from mszoo.registry.decisions import Candidate, Decision
from mszoo.registry.errors import LockError, Problem
from mszoo.registry.lock import Lock, LockedAdapter, LockedDecisions
from mszoo.registry.lock_guard import in_force
from mszoo.registry.lock_plugins import locked_code, locked_plugin
from mszoo.registry.validation import parse_requirement

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
            plugin.name: locked_plugin(plugin, [item for item in chosen if item.plugin == plugin])
            for plugin in entry_points
        },
        code=locked_code(entry_points),
        models=models,
        layers=layers,
        ops=ops,
    )


def differences(lock: Lock, catalog: Catalog) -> tuple[Problem, ...]:
    """Return all in which a catalog, made under this lock, differs from it; each names what and how to mend it.

    Args:
        lock: what must be.
        catalog: what is; its discovery was given the lock.
    """
    found = [*_setting_differences(lock, catalog), *catalog.discovery.differences, *_missing(lock, catalog)]
    found += imported_differences()
    # What follows from other plugins, another device or other settings needs no naming of its own.
    return tuple(found or _consequences(lock, catalog))


def imported_differences() -> list[Problem]:
    """Return all in which what this process imported, or wanted to, differs from the lock in force."""
    guard = in_force()
    return [] if guard is None else guard.problems()


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
    hint = f"Mend it ({items[0].hint.rstrip('.')}), accept it with `mszoo lock {path}`, or unset MSZOO_LOCK."
    raise LockError(f"MSZOO_LOCK={path}", f"nothing is served, this differs: {shown}{more}", hint)


def imported_refusal(path: Path) -> LockError | None:
    """Return why nothing is served of what this process imported, for a model too; None if all is as locked.

    Args:
        path: of the lock in force.
    """
    try:
        enforce(path, imported_differences())
    except LockError as error:
        return error
    return None


def _setting_differences(lock: Lock, catalog: Catalog) -> Iterator[Problem]:
    here = importlib.metadata.version("mszoo")
    if here != lock.mszoo:
        yield Problem("mszoo", f"is {here}, and {lock.mszoo} is locked", f"pip install mszoo=={lock.mszoo}")
    if catalog.device != lock.device:
        what = f"is {catalog.device}, and {lock.device} is locked"
        yield Problem(
            "the device", what, f"Write one lock for each device: mszoo lock --device {catalog.device}"
        )
    settings = catalog.settings
    pairs = {
        "MSZOO_KERNELS": (settings.kernels, lock.kernels),
        "MSZOO_PREFER": (",".join(settings.prefer), ",".join(lock.prefer)),
    }
    for name, (now, locked) in pairs.items():
        if now != locked:
            what = f"is {now or 'empty'}, and {locked or 'empty'} is locked"
            yield Problem(name, what, f"export {name}={locked}" if locked else f"unset {name}")


def _missing(lock: Lock, catalog: Catalog) -> Iterator[Problem]:
    discovery = catalog.discovery
    disabled = {plugin.name for plugin in discovery.disabled}
    told = {problem.plugin for problem in discovery.differences}
    # What differs in a distribution is told once.
    distributions = {item.distribution for name, item in lock.plugins.items() if name in told}
    differing = {name for name, item in lock.plugins.items() if item.distribution in distributions}
    failed = {problem.plugin: problem for problem in discovery.problems}
    for name in sorted(lock.plugins.keys() - {plugin.name for plugin in discovery.plugins} - differing):
        locked, who = lock.plugins[name], f"plugin {name!r}"
        if name in disabled:
            yield Problem(who, "is locked, and MSZOO_DISABLE leaves it out", "unset MSZOO_DISABLE", name)
        elif name in failed:
            yield Problem(who, f"is locked, and {failed[name].what}", failed[name].hint, name)
        else:
            what = f"is locked, and {locked.distribution} {locked.version} with it is not installed"
            yield Problem(who, what, f"pip install {locked.distribution}=={locked.version}", name)


def _consequences(lock: Lock, catalog: Catalog) -> Iterator[Problem]:
    hint = "Find out why with `mszoo explain`."
    now = [_chains(decisions) for decisions in _decisions(catalog)]
    digest = catalog.digest()
    for name, version in sorted(lock.requires.items()):
        here = installed_version(name)
        if here != version:
            what = f"is {here or 'not installed'}, and {version or 'none'} is locked"
            yield Problem(f"distribution {name}", what, f"pip install {name}=={version}")
    pairs = zip(("architecture", "layer", "op"), now, (lock.models, lock.layers, lock.ops), strict=True)
    for kind, chains, locked in pairs:
        for name in sorted({*chains, *locked}):
            if chains.get(name, ()) != locked.get(name, ()):
                what = f"is served by {_served(chains.get(name))}, and {_served(locked.get(name))} is locked"
                yield Problem(f"{kind} {name}", what, hint)
    if digest != lock.digest:
        yield Problem("the digest", f"is {digest}, and {lock.digest} is locked", hint)


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
