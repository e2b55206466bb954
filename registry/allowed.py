"""Whose code may be imported: every distribution's, or under a lock that of those that it lists."""

from __future__ import annotations

from collections.abc import Iterable

_listed: list[frozenset[str]] = []


def allow_only(distributions: Iterable[str] | None) -> None:
    """Let the code of these distributions be asked for, and no other; None for that of all."""
    _listed[:] = [] if distributions is None else [frozenset(distributions)]


def listed() -> frozenset[str] | None:
    """Return the distributions that the lock in force lists; None without a lock."""
    return _listed[0] if _listed else None


def is_allowed(distribution: str) -> bool:
    """Say whether a distribution's code may be imported."""
    return not _listed or distribution in _listed[0]
