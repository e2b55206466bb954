"""Collects the candidates for each architecture, layer and op, and reports those that can never be chosen."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from mszoo.registry.decisions import Candidate
from mszoo.registry.discovery import Contribution
from mszoo.registry.entry_points import Plugin
from mszoo.registry.errors import Problem
from mszoo.registry.known_ops import known_ops, ops_problems
from mszoo.registry.records import Adapter, ModelAdapter, OpAdapter, Suite


def collect(
    contributions: Iterable[Contribution], kind: str, problems: list[Problem]
) -> dict[str, list[Candidate]]:
    """Return the candidates by subject; neither the order of contributions nor that of records matters.

    Args:
        contributions: what the plugins give.
        kind: ``models``, ``layers`` or ``ops``.
        problems: gets what plugins did wrong.
    """
    found: dict[str, list[Candidate]] = {}
    for contribution in contributions:
        plugin, suite = contribution.plugin, contribution.suite
        for adapter in _without_duplicates(plugin, suite, getattr(contribution, kind), problems):
            found.setdefault(adapter.subject, []).append(Candidate(adapter, suite, plugin))
            if isinstance(adapter, OpAdapter):
                problems += _dead_op(plugin, adapter)
    if kind == "ops" and found:
        problems += ops_problems()
    return dict(sorted(found.items()))


def _without_duplicates(
    plugin: Plugin, suite: Suite, adapters: tuple[Adapter, ...], problems: list[Problem]
) -> list[Adapter]:
    """Keep one adapter per subject and place where it runs."""
    kept: dict[tuple[str, str], list[Adapter]] = {}
    for adapter in sorted(adapters, key=_precedence):
        kernel_set = adapter.kernel_set if isinstance(adapter, OpAdapter) else ""
        same = kept.setdefault((adapter.subject, kernel_set), [])
        rival = next((item for item in same if _overlap(item, adapter)), None)
        if rival is None:
            same.append(adapter)
            continue
        what = f"suite {suite.name!r} has two adapters for {adapter.subject}"
        what += f": {rival.implementation} is kept, {adapter.implementation} is skipped"
        differ = "devices, dtypes or kernel sets" if isinstance(adapter, OpAdapter) else "devices"
        problems.append(
            Problem(str(plugin), what, f"Give only one, or give them different {differ}.", plugin.name)
        )
    return [adapter for same in kept.values() for adapter in same]


def _overlap(one: Adapter, other: Adapter) -> bool:
    if not set(one.devices) & set(other.devices):
        return False
    if isinstance(one, OpAdapter) and isinstance(other, OpAdapter):
        return bool(set(one.dtypes) & set(other.dtypes))
    return True  # a qualified name must mean one model, and a layer one class, whatever the dtype


def _precedence(adapter: Adapter) -> tuple[object, ...]:
    """Order the adapters of one suite by all they hold: the order they were found in must not matter."""
    common = (
        -adapter.priority,
        adapter.implementation,
        adapter.devices,
        adapter.dtypes,
        adapter.requires,
    )
    if isinstance(adapter, ModelAdapter):
        return (
            *common,
            sorted(adapter.capabilities),
            repr(sorted(adapter.packed_modules_mapping.items())),
            repr(sorted(adapter.example_config.items(), key=lambda item: item[0])),
            adapter.refused,
            adapter.pooling,
            adapter.drafts,
            adapter.task,
            adapter.modalities,
        )
    return (*common, adapter.kernel_set if isinstance(adapter, OpAdapter) else "", adapter.subject)


def _dead_op(plugin: Plugin, adapter: OpAdapter) -> list[Problem]:
    if adapter.is_primitive or adapter.op in known_ops():
        return []
    nearest = difflib.get_close_matches(adapter.op, known_ops(), n=1, cutoff=0.5)
    meant = f"Did you mean {nearest[0]}? " if nearest else ""
    what = (
        f"registers {adapter.implementation} for op {adapter.op!r}, which does not exist: it would never run"
    )
    hint = f"{meant}The ops are {', '.join(known_ops())}; MindSpore primitives are written in CamelCase."
    return [Problem(str(plugin), what, hint, plugin.name)]
