"""The order of an architecture's candidates, and that order in words."""

from __future__ import annotations

from mszoo.registry.devices import TABLE

#: mszoo's own suite, and the suite that mszoo's own kernels rank as.
OWN_SUITE = "native"

Key = tuple[int, int, int, str]


class Ranking:
    """Ranks candidates: the operator's MSZOO_PREFER, then priority, then the device's suite order, then name.

    Args:
        prefer: suite names that the operator puts first.
        device: ``cpu`` or ``npu``.
    """

    def __init__(self, prefer: tuple[str, ...], device: str) -> None:
        self._prefer = prefer
        self._default = TABLE[device].suites

    def key(self, suite: str, priority: int) -> Key:
        """Return the sort key of a candidate; the smallest comes first."""
        return _position(self._prefer, suite), -priority, _position(self._default, suite), suite

    def why_first(self, first: Key, second: Key) -> str:
        """Say why the first candidate precedes the second."""
        if first[0] != second[0]:
            return f"MSZOO_PREFER puts {first[3]} first"
        if first[1] != second[1]:
            return f"higher priority ({-first[1]} > {-second[1]})"
        if first == second:
            return f"{first[3]} gives several of one priority: in the order of their implementations' names"
        return f"suite order: {first[3]} before {second[3]}"

    def why_later(self, first: Key, later: Key) -> str:
        """Say why a candidate follows the first."""
        if first[0] == later[0] and first[1] != later[1]:
            return f"lower priority ({-later[1]} < {-first[1]})"
        return self.why_first(first, later)


def _position(order: tuple[str, ...], suite: str) -> int:
    return order.index(suite) if suite in order else len(order)
