"""Whose code may be imported: every distribution's, or under a lock that of those that are as it says."""

from __future__ import annotations

from collections.abc import Iterable

_allowed: list[frozenset[str]] = []


def allow_only(distributions: Iterable[str] | None) -> None:
    """Let the code of these distributions be asked for, and no other; None for that of all."""
    _allowed[:] = [] if distributions is None else [frozenset(distributions)]


def allow(distribution: str) -> None:
    """Let the code of one more distribution be asked for: it is as locked."""
    _allowed[:] = [item | {distribution} for item in _allowed]


def allowed() -> frozenset[str] | None:
    """Return the distributions whose code may be imported under the lock in force; None without a lock."""
    return _allowed[0] if _allowed else None


def is_allowed(distribution: str) -> bool:
    """Say whether a distribution's code may be imported."""
    return not _allowed or distribution in _allowed[0]
