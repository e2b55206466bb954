"""The one error hierarchy of mszoo: every message says who, what and how to mend it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from mszoo.registry.text import printable

_LONGEST = 8000


def _safe(text: str) -> str:
    return printable(text, _LONGEST) if isinstance(text, str) else text


def sentence(who: str, what: str, hint: str) -> str:
    """Return ``"{who}: {what}. {hint}"`` on one printable line, without doubled periods."""
    what = what.rstrip(". \n")
    return " ".join(printable(f"{who}: {what}. {hint}", _LONGEST).split())


class MszooError(Exception):
    """Something mszoo can't do.

    Args:
        who: the plugin, record, setting, model or file at fault.
        what: what is wrong with it; a clause without a closing period.
        hint: what the reader can do about it; a sentence.
    """

    def __init__(self, who: str, what: str, hint: str) -> None:
        super().__init__(who, what, hint)
        self.who, self.what, self.hint = _safe(who), _safe(what), _safe(hint)

    def __str__(self) -> str:
        return sentence(self.who, self.what, self.hint)

    def __reduce__(self) -> tuple[type[MszooError], tuple[str, str, str]]:
        # vLLM carries errors from its engine process to the front end by pickle.
        return type(self), (self.who, self.what, self.hint)


class PluginError(MszooError):
    """A plugin can't be used: it doesn't load, or its hooks break their contract."""


class CheckpointError(MszooError):
    """The checkpoint's tensors are not those that a model expects; another implementation may expect them."""


class BrokenCheckpointError(CheckpointError):
    """The checkpoint lacks what its config describes, or can't be read: no implementation serves it rightly."""


class RecordError(MszooError):
    """A Suite, ModelAdapter, LayerAdapter or OpAdapter was given a value that its field doesn't allow."""


class SettingsError(MszooError):
    """An environment variable of mszoo holds a value that it doesn't allow."""


class LockError(MszooError):
    """A lock file can't be read or written, or what it locks differs from what is here; nothing is served then."""


class RefusalError(MszooError):
    """An adapter can't honour this model, feature or dtype; raised before any weight is read."""


@dataclass(frozen=True)
class Problem:
    """Something wrong that did not stop the rest; `plugin` is the name of the plugin at fault, if one is."""

    who: str
    what: str
    hint: str
    plugin: str | None = None

    def __post_init__(self) -> None:
        for name in ("who", "what", "hint"):
            object.__setattr__(self, name, _safe(getattr(self, name)))

    def __str__(self) -> str:
        return sentence(self.who, self.what, self.hint)


def at_most_each(problems: Iterable[Problem], most: int = 20) -> list[Problem]:
    """Return problems, and of those of one plugin that has more than ``most`` how many there are."""
    found: list[Problem] = []
    further: dict[str, list[Problem]] = {}
    counts: Counter[str | None] = Counter()
    for item in problems:
        counts[item.plugin] += 1
        if item.plugin is None or counts[item.plugin] <= most:
            found.append(item)
        else:
            further.setdefault(item.plugin, []).append(item)
    for plugin, items in further.items():
        what = f"has {len(items)} further problems like: {items[0].what}"
        found.append(Problem(items[0].who, what, items[0].hint, plugin))
    return found
