"""Turns what was discovered into decisions: who serves an architecture, and why each other one doesn't.

Pure: no vllm, no torch, no mindspore.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from mszoo.registry.availability import Availability, installed_version
from mszoo.registry.discovery import Discovery, Plugin, Problem, discover
from mszoo.registry.hookcalls import call_hook, describe
from mszoo.registry.ranking import Key, Ranking
from mszoo.registry.records import ModelAdapter, Suite
from mszoo.registry.settings import Settings

Status = Literal["won", "fallback", "unavailable"]


@dataclass(frozen=True)
class Candidate:
    """One suite's adapter for an architecture."""

    adapter: ModelAdapter
    suite: Suite
    plugin: Plugin

    @property
    def qualified_name(self) -> str:
        """``<suite>.<Architecture>``: the architecture name that picks this suite's adapter."""
        return f"{self.suite.name}.{self.adapter.architecture}"


@dataclass(frozen=True)
class Verdict:
    """What was decided about one candidate, and why: a plain clause that ends with the cure if one exists."""

    candidate: Candidate
    status: Status
    reason: str


@dataclass(frozen=True)
class Decision:
    """The verdicts on one architecture: winner, then fallbacks in order, then those that can't run here.

    Args:
        architecture: the name that was asked for, plain or qualified.
        verdicts: empty if no suite provides the architecture.
        pinned: the name was qualified, so only that suite was considered.
    """

    architecture: str
    verdicts: tuple[Verdict, ...] = ()
    pinned: bool = False

    @property
    def chain(self) -> tuple[Candidate, ...]:
        """The candidates that can run here: the winner, then the fallbacks in order."""
        return tuple(verdict.candidate for verdict in self.verdicts if verdict.status != "unavailable")

    @property
    def winner(self) -> Candidate | None:
        """The candidate that serves the architecture; None leaves it to vLLM's own model."""
        return next(iter(self.chain), None)


class Catalog:
    """All candidates by architecture, and the decisions about them.

    Args:
        discovery: what the plugins contribute.
        settings: the operator's preferences.
        device: ``cpu`` or ``npu``.
        installed: the version of an installed distribution by name, or None.
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
        self._availability = Availability(device, installed)
        self._ranking = Ranking(settings.prefer, device)
        self._problems = [*discovery.problems, *self._unknown_preferences()]
        self._cache: dict[str, Decision] = {}
        found: dict[str, list[Candidate]] = {}
        for contribution in discovery.contributions:
            for adapter in self._without_duplicates(
                contribution.plugin, contribution.suite, contribution.models
            ):
                candidate = Candidate(adapter, contribution.suite, contribution.plugin)
                found.setdefault(adapter.architecture, []).append(candidate)
        self.candidates: dict[str, tuple[Candidate, ...]] = {
            name: tuple(sorted(found[name], key=self._key)) for name in sorted(found)
        }

    @property
    def architectures(self) -> tuple[str, ...]:
        """The plain names of all architectures, sorted."""
        return tuple(self.candidates)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All problems: of discovery, of the catalog and of each decision's mszoo_select."""
        self.decisions()
        return tuple(self._problems)

    def decisions(self) -> dict[str, Decision]:
        """Return the decisions about all architectures, by plain name."""
        return {name: self.decide(name) for name in self.candidates}

    def decide(self, architecture: str) -> Decision:
        """Return the decision about one architecture; made once, then looked up.

        Args:
            architecture: a plain name, or ``<suite>.<Architecture>`` to consider that suite only.

        Returns:
            A decision without verdicts if nobody provides it.
        """
        decision = self._cache.get(architecture)
        if decision is None:
            decision = self._decide(architecture)
            if decision.verdicts:
                self._cache[architecture] = decision
        return decision

    def digest(self) -> str:
        """Return 12 hex digits, equal wherever all decisions are equal; compare them across processes."""
        content = [
            [
                name,
                [
                    [item.qualified_name, item.plugin.distribution, item.plugin.version]
                    for item in decision.chain
                ],
            ]
            for name, decision in self.decisions().items()
        ]
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _decide(self, architecture: str) -> Decision:
        suite, pinned, name = architecture.rpartition(".")
        candidates = [
            item for item in self.candidates.get(name, ()) if not pinned or item.suite.name == suite
        ]
        obstacles = [(item, self._availability.obstacle(item.adapter, item.suite)) for item in candidates]
        chain = [item for item, obstacle in obstacles if obstacle is None]
        selector = None
        if pinned:
            reason = "the only one asked for by its qualified name"
        else:
            chain, selector = self._select(name, chain)
            reason = f"chosen by mszoo_select of plugin {selector}" if selector else self._why_first(chain)
        verdicts: list[Verdict] = []
        for item in chain:
            if item is not chain[0]:
                reason = self._why_later(chain[0], item, selector)
            verdicts.append(Verdict(item, "won" if item is chain[0] else "fallback", reason))
        verdicts += [Verdict(item, "unavailable", why) for item, why in obstacles if why is not None]
        return Decision(architecture, tuple(verdicts), pinned=bool(pinned))

    def _select(self, architecture: str, chain: list[Candidate]) -> tuple[list[Candidate], str | None]:
        """Let plugins move one candidate to the front; returns the new order and the plugin that chose."""
        if not chain:
            return chain, None
        arguments = {"architecture": architecture, "candidates": [item.adapter for item in chain]}
        for outcome in call_hook(self.discovery.manager, "mszoo_select", arguments):
            if outcome.error is not None:
                what = f"raised {describe(outcome.error)}"
            elif outcome.value is None:
                continue
            elif isinstance(outcome.value, ModelAdapter):
                equal = [item for item in chain if item.adapter == outcome.value]
                if equal:
                    # Two suites may hold equal records: the very object is meant then.
                    chosen = next((item for item in equal if item.adapter is outcome.value), equal[0])
                    return [chosen, *(item for item in chain if item is not chosen)], outcome.plugin
                what = f"returned {outcome.value.model}, which is not a candidate"
            else:
                what = f"returned a {type(outcome.value).__name__} instead of a candidate or None"
            what = f"mszoo_select {what}, for {architecture}; it is ignored"
            mend = f"Return one of the candidates or None, or set MSZOO_DISABLE={outcome.plugin}."
            self._problems.append(Problem(f"plugin {outcome.plugin!r}", what, mend, outcome.plugin))
        return chain, None

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

    def _without_duplicates(
        self, plugin: Plugin, suite: Suite, models: tuple[ModelAdapter, ...]
    ) -> list[ModelAdapter]:
        """Keep one adapter per architecture and device of a suite; a qualified name must mean one model."""
        kept: dict[str, list[ModelAdapter]] = {}
        for adapter in sorted(models, key=_precedence):
            same = kept.setdefault(adapter.architecture, [])
            rival = next((item for item in same if set(item.devices) & set(adapter.devices)), None)
            if rival is None:
                same.append(adapter)
                continue
            what = f"suite {suite.name!r} has two adapters for {adapter.architecture}"
            what += f": {rival.model} is kept, {adapter.model} is skipped"
            mend = "Give only one, or give them different devices."
            self._problems.append(Problem(str(plugin), what, mend, plugin.name))
        return [adapter for adapters in kept.values() for adapter in adapters]

    def _unknown_preferences(self) -> list[Problem]:
        if self.settings.disabled_all:
            return []
        known = sorted(contribution.suite.name for contribution in self.discovery.contributions)
        mend = f"Known suites: {', '.join(known) or 'none'}."
        unknown = [name for name in self.settings.prefer if name not in known]
        return [
            Problem("MSZOO_PREFER", f"names {name!r}, which is not a suite here", mend) for name in unknown
        ]


def _precedence(adapter: ModelAdapter) -> tuple[object, ...]:
    """Order the adapters of one suite by all they hold: the order they were found in must not matter."""
    return (
        -adapter.priority,
        adapter.model,
        adapter.devices,
        adapter.dtypes,
        adapter.requires,
        sorted(adapter.capabilities),
        repr(sorted(adapter.packed_modules_mapping.items())),
        repr(sorted(adapter.example_config.items(), key=lambda item: item[0])),
    )


def load_catalog(environ: Mapping[str, str] = os.environ, device: str = "cpu") -> Catalog:
    """Read the settings, discover the plugins and return the catalog.

    Raises:
        SettingsError: an environment variable holds a value that it doesn't allow.
    """
    settings = Settings.from_environ(environ)
    return Catalog(discover(settings), settings, device)
