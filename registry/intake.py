"""Takes records in from a plugin: whatever it gives becomes records of our own, once, or a reason why it can't.

All of it runs the plugin's code, so it is called where that is contained.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import Any, Generic, TypeVar

from mszoo.registry.containment import caught
from mszoo.registry.errors import MszooError, PluginError, RecordError, RefusalError, SettingsError
from mszoo.registry.records import Capability, LayerAdapter, ModelAdapter, OpAdapter, Suite
from mszoo.registry.text import describe, kind, plain_text, shown
from mszoo.registry.validation import check_strings

MOST_RECORDS = 10_000  # of one hook; an endless generator would stop everything
_OUR_ERRORS = (MszooError, PluginError, RecordError, RefusalError, SettingsError)

R = TypeVar("R", Suite, ModelAdapter, LayerAdapter, OpAdapter)


@dataclass
class Taken(Generic[R]):
    """What was taken of a hook's answer.

    Attributes:
        records: the good ones.
        fault: what is wrong with the rest, a clause; empty if nothing is.
        hint: how to mend it; empty where only the plugin's author can know.
        newer: what the good ones were given that this mszoo doesn't know: in words, and by which of them.
    """

    records: list[R] = field(default_factory=list)
    fault: str = ""
    hint: str = ""
    newer: dict[str, list[R]] = field(default_factory=dict)


def take_record(record_type: type[R], value: object) -> R:
    """Return a record of our own that holds what a plugin's record holds.

    Raises:
        RecordError: it is of another type, lacks fields, or holds values that its constructor refuses.
    """
    name = record_type.__name__
    if type(value) is not record_type:
        raise RecordError(kind(value), f"is no {name}", f"Return {name} records only.")
    held = object.__getattribute__(value, "__dict__")
    try:
        values = {item.name: held[item.name] for item in fields(record_type)}
    except KeyError as error:
        hint = f"Call {name}() with all its arguments."
        raise RecordError(f"a {name}", f"lacks its field {error}", hint) from error
    record: R = record_type(**values)
    # What the plugin's call of the constructor noted, beside what this one did.
    given: tuple[str, ...] = check_strings(name, "newer", held.get("newer", ()))
    object.__setattr__(record, "newer", tuple(dict.fromkeys((*given, *record.newer))))
    return record


def newer_fault(
    what: str, records: Sequence[Suite | ModelAdapter | LayerAdapter | OpAdapter]
) -> tuple[str, str]:
    """Return what to say of a field or capability that this mszoo doesn't know, and the hint."""
    first = records[0]
    who = f"{type(first).__name__}({shown(first.name if isinstance(first, Suite) else first.subject)})"
    more = f" and {len(records) - 1} more" if records[1:] else ""
    kind_of, _, quoted = what.partition(" ")
    known = [item.name for item in fields(first)]
    if kind_of == "capability":
        known = [item.value for item in Capability]
    nearest = difflib.get_close_matches(quoted.strip("'"), known, n=1, cutoff=0.8)
    slip = f"Did you mean {nearest[0]!r}? If not, it" if nearest else "It"
    return f"the {what} of {who}{more} is unknown, so it is ignored", f"{slip} needs a newer mszoo."


def take_records(hook: str, record_type: type[R], value: Any) -> Taken[R]:
    """Return the good records of what a hook returned, in their order; never raises."""
    taken: Taken[R] = Taken()
    name, items = record_type.__name__, list[Any]()
    # A record is accepted for what it is; a string or mapping would be taken apart.
    if issubclass(type(value), (str, bytes, Mapping)) or not issubclass(type(value), Iterable):
        what = f"{hook} returned {kind(value)} instead of an iterable"
        return Taken(fault=what, hint=f"Return a list of {name} records.")
    with caught() as failure:
        items.extend(islice(value, MOST_RECORDS + 1))
    if len(items) > MOST_RECORDS:
        what = f"{hook} gives more than {MOST_RECORDS} records; all are ignored"
        return Taken(fault=what, hint="Give one record per model, layer or op.")
    wrong = 0
    for index, item in enumerate(items):
        what, hint = (
            f"item {index} of {hook} is {kind(item)} instead of a {name}",
            f"Return {name} records only.",
        )
        if type(item) is record_type:
            with caught() as refusal:
                taken.records.append(record := take_record(record_type, item))
                for newer in record.newer:
                    taken.newer.setdefault(newer, []).append(record)
            if refusal.error is None:
                continue
            what, hint = said(f"item {index} of {hook} is refused:", refusal.error)
        wrong += 1
        if wrong == 1:
            taken.fault, taken.hint = what, hint
    if wrong:
        more = f", and so are {wrong - 1} more; they are skipped" if wrong > 1 else "; it is skipped"
        taken.fault += more
    if failure.error is not None:
        raised, hint = said(
            f"{hook} raised after {len(items)} items" if items else f"{hook} raised", failure.error
        )
        taken.fault = f"{taken.fault}; {raised}" if wrong else raised
        taken.hint = taken.hint or hint
    return taken


def said(what: str, error: BaseException) -> tuple[str, str]:
    """Return an error of a plugin's code as a clause that begins with ``what``, and its hint, or an empty one."""
    if type(error) in _OUR_ERRORS:
        # Our own error, such as RecordError, knows better what to do; a plugin may have made it, of anything.
        parts: list[Any] = [getattr(error, name, None) for name in ("who", "what", "hint")]
        if all(issubclass(type(part), str) for part in parts):
            who, text, hint = map(plain_text, parts)
            return f"{what} {type(error).__name__}: {who}: {text}", hint
    return f"{what} {describe(error)}", ""
