"""What the plugins' own checks find: the hook mszoo_doctor_checks, taken in as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from mszoo.registry.catalog import Catalog
from mszoo.registry.containment import caught, contained
from mszoo.registry.entry_points import Plugin
from mszoo.registry.errors import RecordError
from mszoo.registry.finding import LEVELS, Finding
from mszoo.registry.hookcalls import call, implementations
from mszoo.registry.intake import said
from mszoo.registry.text import kind, plain_text, shown

_HOOK = "mszoo_doctor_checks"
_MOST = 100
_LONGEST_FIX = 100


def plugins_findings(catalog: Catalog) -> Iterator[Finding]:
    """Return what the plugins' checks find, each told by whom; a check that fails is a finding itself."""
    plugins = {plugin.name: plugin for plugin in catalog.discovery.plugins}
    for name, implementation in implementations(catalog.discovery.manager, _HOOK):
        plugin = plugins[name]
        with contained() as traces:
            outcome = call(name, implementation, {"device": catalog.device})
            if outcome.error is not None:
                found, (fault, hint) = list[Finding](), said(f"{_HOOK} raised", outcome.error)
            else:
                found, fault, hint = _take(outcome.value, plugin)
        yield from found
        if fault:
            yield Finding("problem", str(plugin), fault, hint or plugin.cure)
        for trace in traces:
            yield Finding("problem", str(plugin), f"{trace.what}, when {_HOOK} was called", trace.hint)


def _take(value: Any, plugin: Plugin) -> tuple[list[Finding], str, str]:
    """Return the good findings of a hook's answer, what is wrong with the rest, and a hint; or empty texts."""
    if issubclass(type(value), (str, bytes, Mapping)):
        return (
            [],
            f"{_HOOK} returned {kind(value)} instead of an iterable",
            "Return a list of Finding records.",
        )
    items: list[Any] = []
    with caught() as failure:
        items.extend(islice(value, _MOST + 1))
    if failure.error is not None:
        return [], *said(f"{_HOOK} raised after {len(items)} items", failure.error)
    if len(items) > _MOST:
        return (
            [],
            f"{_HOOK} gives more than {_MOST} findings; all are ignored",
            "Give a few that people can read.",
        )
    found: list[Finding] = []
    for index, item in enumerate(items):
        with caught() as failure:
            found.append(_plain(item, plugin))
        if failure.error is not None:
            return found, *said(f"item {index} of {_HOOK} is refused:", failure.error)
    return found, "", ""


def _plain(item: Any, plugin: Plugin) -> Finding:
    if type(item) is not Finding:
        raise RecordError(kind(item), "is no Finding", "Return Finding records only.")
    held: dict[str, Any] = object.__getattribute__(item, "__dict__")
    texts = {}
    for name in ("level", "who", "what", "hint"):
        if not issubclass(type(held[name]), str):
            raise RecordError("a Finding", f"has {kind(held[name])} as its {name}", "Give a text.")
        texts[name] = plain_text(held[name])
    if texts["level"] not in LEVELS:
        levels = ", ".join(LEVELS)
        raise RecordError("a Finding", f"has the level {shown(texts['level'])}", f"There are {levels}.")
    fix = held.get("fix", ())
    if type(fix) is not tuple or len(fix) > _LONGEST_FIX or not all(type(part) is str for part in fix):
        raise RecordError("a Finding", f"has {kind(fix)} as its fix", "Give a command as a tuple of texts.")
    who = f"{texts['who']}, says {plugin.source}"
    return Finding(texts["level"], who, texts["what"], texts["hint"], fix)  # type: ignore[arg-type]
