"""Who may serve what: the candidates for an architecture, a layer or an op, and what was decided about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mszoo.registry.entry_points import Plugin
from mszoo.registry.records import Suite

Status = Literal["won", "fallback", "unavailable"]


@dataclass(frozen=True)
class Candidate:
    """One suite's adapter for an architecture, a layer or an op.

    Args:
        adapter: a ModelAdapter, LayerAdapter or OpAdapter.
        suite: whose adapter it is.
        plugin: where the suite comes from.
    """

    adapter: Any
    suite: Suite
    plugin: Plugin

    @property
    def qualified_name(self) -> str:
        """``<suite>.<subject>``; for a model, the architecture name that picks this suite's adapter."""
        return f"{self.suite.name}.{self.adapter.subject}"


@dataclass(frozen=True)
class Verdict:
    """What was decided about one candidate, and why: a plain clause that ends with the cure if one exists."""

    candidate: Candidate
    status: Status
    reason: str


@dataclass(frozen=True)
class Decision:
    """The verdicts on one subject: winner, then fallbacks in order, then those that can't run here.

    Args:
        subject: what is decided about: an architecture as it was asked for, plain or qualified; a layer's
            target; an op.
        verdicts: empty if no suite provides it.
        pinned: the name was qualified, so only that suite was considered.
    """

    subject: str
    verdicts: tuple[Verdict, ...] = ()
    pinned: bool = False

    @property
    def architecture(self) -> str:
        """The subject, where that is an architecture."""
        return self.subject

    @property
    def chain(self) -> tuple[Candidate, ...]:
        """The candidates that can run here: the winner, then the fallbacks in order."""
        return tuple(verdict.candidate for verdict in self.verdicts if verdict.status != "unavailable")

    @property
    def winner(self) -> Candidate | None:
        """The candidate that serves the subject; None leaves it to vLLM's own model or layer, or our own op."""
        return next(iter(self.chain), None)
