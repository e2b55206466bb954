"""Reads entry points from the metadata of what is installed; a damaged installation doesn't hide the others."""

from __future__ import annotations

import importlib.metadata
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint

from mszoo.registry.errors import Problem
from mszoo.registry.text import describe, printable

_OWN_DISTRIBUTION = "mszoo"
_LONGEST = 200
_MOST = 100  # entry points of one group in one distribution


@dataclass(frozen=True)
class Plugin:
    """Where a plugin comes from: its entry point's name and value, and the distribution that declares it.

    What they hold is printable: an odd name is known here, to settings and locks too, as it is shown.
    """

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
        without = f"set MSZOO_DISABLE={shlex.quote(self.name)} to go on without it"
        return f"Fix or upgrade {self.distribution}, or {without}."


def readable(group: str) -> tuple[list[EntryPoint], list[Problem]]:
    """Return the entry points of a group, and a problem for each distribution whose own can't be read."""
    try:
        return _bounded(list(importlib.metadata.entry_points(group=group)), [])
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
        return _bounded(found, problems)


def _bounded(found: list[EntryPoint], problems: list[Problem]) -> tuple[list[EntryPoint], list[Problem]]:
    """Leave out the entry points of a distribution that has so many that nothing else would come to its turn."""
    counts = Counter(_described(item.dist)[0] for item in found) if len(found) > _MOST else Counter[str]()
    excessive = [name for name, count in counts.items() if count > _MOST]
    if not excessive:
        return found, problems
    for name in excessive:
        what = f"declares {counts[name]} entry points of one group; all are ignored"
        problems.append(Problem(f"distribution {name}", what, f"Reinstall it, or declare at most {_MOST}."))
    return [item for item in found if _described(item.dist)[0] not in excessive], problems


def ordered(entry_points: Iterable[EntryPoint]) -> list[tuple[Plugin, EntryPoint]]:
    """Sort entry points, so that nothing depends on the order of sys.path; ours first, as the fallback."""
    found = {
        Plugin(printable(item.name, _LONGEST), *_described(item.dist), printable(item.value, _LONGEST)): item
        for item in entry_points
    }
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
    found = (name or stem[0] or "unknown distribution", version or stem[2] or "unknown")
    return printable(found[0], _LONGEST), printable(found[1], _LONGEST)
