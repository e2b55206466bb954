"""Reads entry points from the metadata of what is installed; a damaged installation doesn't hide the others."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint

from mszoo.registry.errors import Problem
from mszoo.registry.hookcalls import describe

_OWN_DISTRIBUTION = "mszoo"


@dataclass(frozen=True)
class Plugin:
    """Where a plugin comes from: its entry point's name and value, and the distribution that declares it."""

    name: str
    distribution: str
    version: str
    value: str

    def __str__(self) -> str:
        return f"plugin {self.name!r} ({self.source})"

    @property
    def source(self) -> str:
        """The distribution and its version, as people read it."""
        return f"{self.distribution} {self.version}"

    @property
    def cure(self) -> str:
        """What a user can do about a fault in the plugin's own code."""
        return f"Fix or upgrade {self.distribution}, or set MSZOO_DISABLE={self.name} to go on without it."


def readable(group: str) -> tuple[list[EntryPoint], list[Problem]]:
    """Return the entry points of a group, and a problem for each distribution whose own can't be read."""
    try:
        return list(importlib.metadata.entry_points(group=group)), []
    except Exception:
        # One unreadable entry_points.txt fails the call above for everybody: find out whose it is.
        found: list[EntryPoint] = []
        problems = []
        for distribution in importlib.metadata.distributions():
            try:
                found += [item for item in distribution.entry_points if item.group == group]
            except Exception as error:
                who = f"distribution {_described(distribution)[0]}"
                what = f"its entry_points.txt can't be read ({describe(error)})"
                problems.append(Problem(who, what, "Reinstall it."))
        return found, problems


def ordered(entry_points: Iterable[EntryPoint]) -> list[tuple[Plugin, EntryPoint]]:
    """Sort entry points, so that nothing depends on the order of sys.path; ours first, as the fallback."""
    found = {Plugin(item.name, *_described(item.dist), item.value): item for item in entry_points}
    return sorted(
        found.items(), key=lambda item: (item[0].distribution != _OWN_DISTRIBUTION, *vars(item[0]).values())
    )


def _described(distribution: Distribution | None) -> tuple[str, str]:
    """Return a distribution's name and version, whatever is left of its metadata."""
    try:
        metadata = {} if distribution is None else dict(distribution.metadata.items())  # type: ignore[attr-defined]
        name, version = metadata.get("Name"), metadata.get("Version")
    except Exception:  # a METADATA that is missing or no text; the error depends on the Python version
        name = version = None
    # The folder's name says it too: demo_dist-1.0.dist-info.
    stem = getattr(getattr(distribution, "_path", None), "stem", "").partition("-")
    return name or stem[0] or "unknown distribution", version or stem[2] or "unknown"
