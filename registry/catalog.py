"""Turns what was discovered into decisions: who serves an architecture, layer or op, and why no other does."""

from __future__ import annotations

import copy
import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mszoo.registry.availability import Availability, installed_version
from mszoo.registry.candidates import collect
from mszoo.registry.containment import caught
from mszoo.registry.decisions import Candidate, Decision, Verdict
from mszoo.registry.discovery import Discovery
from mszoo.registry.errors import Problem, at_most_each
from mszoo.registry.hookcalls import Outcome, call_hook, implementations
from mszoo.registry.intake import take_record
from mszoo.registry.ranking import OWN_SUITE, Key, Ranking
from mszoo.registry.records import ModelAdapter, Suite
from mszoo.registry.settings import KERNELS, Settings
from mszoo.registry.text import describe, kind


def network_of(architecture: str) -> str:
    """Return the decoder whose network an architecture names: MistralForCausalLM of MistralModel; else ""."""
    name = architecture.removesuffix("Model")
    return "" if name == architecture else f"{name}ForCausalLM"


class Catalog:
    """All candidates by architecture, layer target and op, and the decisions about them.

    Args:
        discovery: what the plugins contribute.
        settings: the operator's preferences.
        device: ``cpu`` or ``npu``.
        installed: the version of an installed distribution by name, or None.

    Attributes:
        differences: in what it differs from the lock in force; with any, nothing is served.
    """

    def __init__(
        self,
        discovery: Discovery,
        settings: Settings,
        device: str = "cpu",
        installed: Callable[[str], str | None] = installed_version,
    ) -> None:
        self.discovery = discovery
        self.settings = settings
        self.device = device
        self.differences: tuple[Problem, ...] = ()
        self._availability = Availability(device, installed)
        self._ranking = Ranking(settings.prefer, device)
        self._problems = [*discovery.problems, *self._unknown_preferences(), *self._mistyped()]
        self._cache: dict[str, Decision] = {}
        # By plugin and what is wrong with its mszoo_select: how to mend it, and the architectures.
        self._bad_selects: dict[tuple[str, str], tuple[str, list[str]]] = {}
        self.candidates = self._collect("models")
        self._layers, self._ops = self._collect("layers"), self._collect("ops")

    @property
    def architectures(self) -> tuple[str, ...]:
        """The plain names of all architectures, sorted."""
        return tuple(self.candidates)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All problems: of discovery, the catalog, each decision's mszoo_select, and the lock in force."""
        self.decisions()
        return (*at_most_each(self._problems), *self._select_problems(), *self.differences)

    def decisions(self) -> dict[str, Decision]:
        """Return the decisions about all architectures, by plain name."""
        return {name: self.decide(name) for name in self.candidates}

    def decide(self, architecture: str, config: Mapping[str, Any] | None = None) -> Decision:
        """Return the decision about one architecture; made once, then looked up.

        Args:
            architecture: a plain name, or ``<suite>.<Architecture>`` to consider that suite only.
            config: of a model, for plugins that choose by it (``mszoo_select``); a lock holds the decision without.

        Returns:
            A decision without verdicts if nobody provides it.
        """
        if config is not None and self.settings.lock is None and self.selects_by_config:
            return self._decide(architecture, config)
        decision = self._cache.get(architecture)
        if decision is None:
            decision = self._decide(architecture)
            if decision.verdicts:
                self._cache[architecture] = decision
        return decision

    def layer_decisions(self, dtype: str | None = None) -> dict[str, Decision]:
        """Return the decisions about all layers, by target.

        Args:
            dtype: what the model computes in, such as ``float32``: adapters for others are unavailable.
        """
        return {name: self._decision(name, items, dtype) for name, items in self._layers.items()}

    def op_decisions(self, dtype: str | None = None) -> dict[str, Decision]:
        """Return the decisions about all ops, by name; the candidates are of all kernel sets.

        Args:
            dtype: as in layer_decisions.
        """
        return {name: self._decision(name, items, dtype) for name, items in self._ops.items()}

    @property
    def kernel_sets(self) -> tuple[str, ...]:
        """The kernel sets that suites have of their own, sorted; MSZOO_KERNELS may name one."""
        found = {item.adapter.kernel_set for items in self._ops.values() for item in items}
        return tuple(sorted(found - {*KERNELS}))

    def suite_obstacle(self, suite: Suite) -> str | None:
        """Return why none of a suite's adapters can run here, ending with the cure; None if the suite is usable."""
        return self._availability.suite_obstacle(suite)

    def why_before_own(self, candidate: Candidate) -> str | None:
        """Return why an op's candidate goes before mszoo's own implementation of the op; None if it doesn't.

        Our own ranks like a candidate of suite ``native`` with priority 0: a higher priority goes before it,
        and so does a suite that MSZOO_PREFER or the device's order puts before ``native``.
        """
        key, own = self._key(candidate), self._ranking.key(OWN_SUITE, 0)
        return self._ranking.why_first(key, own) if key < own else None

    def digest(self) -> str:
        """Return 12 hex digits, equal wherever all decisions are equal; compare them across processes."""
        content: list[object] = [
            [
                name,
                [
                    [item.qualified_name, item.plugin.distribution, item.plugin.version]
                    for item in decision.chain
                ],
            ]
            for name, decision in self.decisions().items()
        ]
        # One suite may give an op in several ways, so what is chosen is told apart by its code.
        content += [
            [
                kind,
                name,
                [
                    [
                        item.qualified_name,
                        item.plugin.distribution,
                        item.plugin.version,
                        item.adapter.implementation,
                    ]
                    for item in decision.chain
                ],
            ]
            for kind, decisions in (("layer", self.layer_decisions()), ("op", self.op_decisions()))
            for name, decision in decisions.items()
        ]
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _collect(self, kind: str) -> dict[str, tuple[Candidate, ...]]:
        found = collect(self.discovery.contributions, kind, self._problems)
        return {name: tuple(sorted(self._for_device(items), key=self._key)) for name, items in found.items()}

    def _for_device(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Leave out a suite's records for other devices where it has one for this device."""
        candidates = list(candidates)
        here = {item.suite.name for item in candidates if self.device in item.adapter.devices}
        return [
            item for item in candidates if self.device in item.adapter.devices or item.suite.name not in here
        ]

    @property
    def selects_by_config(self) -> bool:
        """Whether a plugin chooses by a model's config."""
        found = implementations(self.discovery.manager, "mszoo_select")
        return any("config" in item.argnames for _, item in found)

    def _decide(self, architecture: str, config: Mapping[str, Any] | None = None) -> Decision:
        suite, pinned, name = architecture.rpartition(".")
        candidates = self.candidates.get(name) or self.candidates.get(network_of(name), ())
        if not pinned:
            return self._decision(architecture, candidates, select=True, config=config)
        candidates = tuple(item for item in candidates if item.suite.name == suite)
        return self._decision(architecture, candidates, pinned=True)

    def _decision(
        self,
        subject: str,
        candidates: tuple[Candidate, ...],
        dtype: str | None = None,
        *,
        pinned: bool = False,
        select: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> Decision:
        obstacles = [
            (item, self._availability.obstacle(item.adapter, item.suite, dtype)) for item in candidates
        ]
        chain = [item for item, obstacle in obstacles if obstacle is None]
        selector = None
        if select:
            chain, selector = self._select(subject, chain, config)
        verdicts: list[Verdict] = []
        for item in chain:
            if item is not chain[0]:
                reason = self._why_later(chain[0], item, selector)
            elif pinned:
                reason = "the only one asked for by its qualified name"
            elif selector is not None:
                reason = f"chosen by mszoo_select of plugin {selector}"
            else:
                reason = self._why_first(chain)
            verdicts.append(Verdict(item, "won" if item is chain[0] else "fallback", reason))
        verdicts += [Verdict(item, "unavailable", why) for item, why in obstacles if why is not None]
        return Decision(subject, tuple(verdicts), pinned)

    def _select(
        self, architecture: str, chain: list[Candidate], config: Mapping[str, Any] | None
    ) -> tuple[list[Candidate], str | None]:
        """Let plugins move one candidate to the front; returns the new order and the plugin that chose."""
        if not chain:
            return chain, None
        # Copies: a plugin has ways around a frozen record, and these are everybody's.
        given = [copy.copy(item.adapter) for item in chain]
        chosen: tuple[Candidate, str] | None = None
        arguments = {
            "architecture": architecture,
            "candidates": list(given),
            "suites": [item.suite.name for item in chain],
            "config": None if config is None else copy.deepcopy(dict(config)),
        }
        for outcome in call_hook(self.discovery.manager, "mszoo_select", arguments):
            for trace in outcome.traces:
                self._note_select(outcome.plugin, f"{trace.what}, when mszoo_select was called", trace.hint)
            if chosen is not None:
                continue
            found, wrong = _answer(outcome, chain, given)
            if found is not None:
                chosen = found, outcome.plugin
            elif wrong:
                hint = f"Return one of the candidates or None, or set MSZOO_DISABLE={shlex.quote(outcome.plugin)}."
                self._note_select(outcome.plugin, f"mszoo_select {wrong}", hint, architecture)
        if chosen is None:
            return chain, None
        first, plugin = chosen
        return [first, *(item for item in chain if item is not first)], plugin

    def _note_select(self, plugin: str, what: str, hint: str, architecture: str = "") -> None:
        _, names = self._bad_selects.setdefault((plugin, what), (hint, []))
        names += [architecture] if architecture else []

    def _select_problems(self) -> list[Problem]:
        """Return what is wrong with plugins' mszoo_select: one problem for all architectures that have it."""
        found = []
        for (plugin, what), (hint, names) in self._bad_selects.items():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            told = f"{what}, for {names[0]}{more}; it is ignored" if names else what
            found.append(Problem(f"plugin {plugin!r}", told, hint, plugin))
        return at_most_each(found)

    def _key(self, candidate: Candidate) -> Key:
        return self._ranking.key(candidate.suite.name, candidate.adapter.priority)

    def _why_first(self, chain: list[Candidate]) -> str:
        if len(chain) < 2:
            return "the only one available here"
        return self._ranking.why_first(self._key(chain[0]), self._key(chain[1]))

    def _why_later(self, first: Candidate, later: Candidate, selector: str | None) -> str:
        if selector is not None:
            return f"mszoo_select of plugin {selector} chose {first.suite.name}"
        return self._ranking.why_later(self._key(first), self._key(later))

    def _unknown_preferences(self) -> list[Problem]:
        if self.settings.disabled_all:
            return []
        known = sorted(contribution.suite.name for contribution in self.discovery.contributions)
        hint = f"Known suites: {', '.join(known) or 'none'}."
        unknown = [name for name in self.settings.prefer if name not in known]
        return [
            Problem("MSZOO_PREFER", f"names {name!r}, which is not a suite here", hint) for name in unknown
        ]

    def _mistyped(self) -> list[Problem]:
        found = () if self.settings.disabled_all else self.settings.mistyped
        what = "is not a variable of mszoo, and does nothing"
        return [Problem(name, what, f"Did you mean {meant}?") for name, meant in found]


def _answer(
    outcome: Outcome, chain: list[Candidate], given: list[ModelAdapter]
) -> tuple[Candidate | None, str]:
    """Return the candidate that an mszoo_select chose, or what is wrong with its answer, or neither."""
    value = outcome.value
    if outcome.error is not None:
        return None, f"raised {describe(outcome.error)}"
    if value is not None and type(value) is not ModelAdapter:
        return None, f"returned {kind(value)} instead of a candidate or None"
    # Two suites may hold equal records: the very object is meant then.
    found = next((item for item, record in zip(chain, given, strict=True) if record is value), None)
    wrong = ""
    if value is not None and found is None:
        with caught() as failure:
            record = take_record(ModelAdapter, value)
            found = next((item for item in chain if item.adapter == record), None)
            wrong = "" if found else f"returned {record.model}, which is not a candidate"
        wrong = wrong if failure.error is None else f"returned a bad record ({describe(failure.error)})"
    return found, wrong
