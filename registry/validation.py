"""Checks of record fields; each returns plain data of our own, or raises a RecordError naming the field.

A plugin's strings, numbers and containers may be of subclasses whose operators do anything: what is returned is of
str, int, float, bool, tuple, list and dict themselves, and of bounded size.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mszoo.registry.errors import RecordError
from mszoo.registry.text import kind, plain_text, shown

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_DOTTED = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_NAME = r"[A-Za-z_][A-Za-z0-9_-]*"
NAME = re.compile(_NAME)
SUITE_NAME = re.compile(f"(?!vllm$){_NAME}")
OBJECT_PATH = re.compile(f"{_DOTTED}:{_DOTTED}")
LAYER_TARGET = re.compile(rf"vllm:[A-Za-z_]\w*|(?!vllm:){_NAME}:{_DOTTED}:{_DOTTED}")
OP_NAME = re.compile(_DOTTED)
_LONGEST_NAME = 300
_LONGEST_REQUIREMENT = 300
_LONGEST_TEXT = 4000
_LARGEST = 10**9
_MOST_ITEMS = 1000
#: Of what a config.json holds: values in all, and how deep.
_MOST_VALUES, _DEEPEST = 20_000, 40


@lru_cache(maxsize=4096)
def parse_requirement(text: str) -> Requirement:
    """Parse a requirement string; raises packaging's InvalidRequirement. Suites repeat a few, so cached."""
    # Imported here: it takes longer than all else that an adapter without requirements costs a process.
    from packaging.requirements import Requirement

    return Requirement(text)


@lru_cache(maxsize=4096)
def _requirement_error(text: str) -> Exception | None:
    """Return why a string is no requirement that can be checked, or None."""
    from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
    from packaging.requirements import InvalidRequirement
    from packaging.version import InvalidVersion

    if len(text) > _LONGEST_REQUIREMENT:  # packaging's parser recurses
        return ValueError(f"it has {len(text)} characters")
    try:
        marker = parse_requirement(text).marker
        # Some markers parse and can't be evaluated: extras == "vision".
        if marker is not None:
            marker.evaluate({"extra": ""})
    except (InvalidRequirement, InvalidVersion, UndefinedComparison, UndefinedEnvironmentName) as error:
        return error
    return None


def check_text(who: str, name: str, value: object) -> str:
    """Return one line of text that any terminal can show."""
    text = _text(value)
    if text is None or not text.isprintable():
        raise _error(who, name, value, "a string of one line")
    return _bounded(who, name, text, _LONGEST_TEXT)


def check_integer(who: str, name: str, value: object) -> int:
    """Return an integer; a bool is a slip, not a number."""
    number = _integer(value)
    if number is None:
        raise _error(who, name, value, "an integer")
    if abs(number) > _LARGEST:
        raise _error(who, name, number, f"an integer between -{_LARGEST} and {_LARGEST}")
    return number


def check_pattern(who: str, name: str, value: object, pattern: re.Pattern[str], form: str) -> str:
    """Return a string that matches the whole pattern; `form` says in words what it should look like."""
    text = _text(value)
    # What is too long isn't compared at all.
    if text is None or (len(text) <= _LONGEST_NAME and pattern.fullmatch(text) is None):
        raise _error(who, name, value, form)
    return _bounded(who, name, text, _LONGEST_NAME)


def check_strings(who: str, name: str, value: object) -> tuple[str, ...]:
    """Return an iterable of strings as a tuple without repeats, in its order (sets: sorted)."""
    # A lone string is iterable too, letter by letter: always a forgotten comma or bracket.
    if _is_a(value, str, bytes, Mapping) or not _is_a(value, Iterable):
        raise _error(who, name, value, "a tuple of strings")
    items: list[str] = []
    for item in islice(_iterator(value), _MOST_ITEMS + 1):
        text = item if type(item) is str else _text(item)
        if text is None:
            raise _error(who, name, value, "a tuple of strings")
        items.append(_bounded(who, name, text, _LONGEST_NAME))
    if len(items) > _MOST_ITEMS:
        raise RecordError(who, f"{name} holds more than {_MOST_ITEMS} strings", "Give it fewer.")
    return tuple(sorted(set(items)) if _is_a(value, set, frozenset) else dict.fromkeys(items))


def check_members(
    who: str, name: str, value: object, known: tuple[str, ...], may_be_empty: bool = False
) -> tuple[str, ...]:
    """Return an iterable of strings, each of them known, as a tuple."""
    items = check_strings(who, name, value)
    if not may_be_empty and not items:
        raise _error(who, name, value, f"at least one of {', '.join(known)}")
    for item in items:
        if item not in known:
            raise _error(who, name, item, f"any of {', '.join(known)}")
    return items


def check_requirements(who: str, name: str, value: object) -> tuple[str, ...]:
    """Return an iterable of requirement strings (``"mindformers>=1.9"``) as a tuple."""
    items = check_strings(who, name, value)
    for item in items:
        error = _requirement_error(item)
        if error is not None:
            raise _error(who, name, item, "a requirement string such as 'mindformers>=1.9'") from error
    return items


def check_config(who: str, name: str, value: object) -> Mapping[str, Any]:
    """Return a read-only copy of the fields of a config.json; lists stay lists, tuples become lists."""
    if not _is_a(value, Mapping):
        raise _error(who, name, value, "a mapping with string keys")
    try:
        return MappingProxyType(_json(value, [0], 0))
    except _NotJsonError as error:
        hint = "Give it what a config.json may hold."
        raise RecordError(who, f"{name} isn't JSON ({error})", hint) from error


def check_modules(who: str, name: str, value: object) -> Mapping[str, tuple[str, ...]]:
    """Return a read-only mapping of one fused layer name to the checkpoint names that it holds."""
    modules: dict[str, tuple[str, ...]] = {}
    for key, parts in _items(value) if _is_a(value, Mapping) else ((None, None),):
        fused = _text(key)
        if fused is None:
            raise _error(who, name, value, "a mapping with string keys")
        if len(modules) == _MOST_ITEMS:
            raise RecordError(who, f"{name} holds more than {_MOST_ITEMS} names", "Give it fewer.")
        fused = _bounded(who, name, fused, _LONGEST_NAME)
        modules[fused] = check_strings(who, f"{name}[{fused!r}]", parts)
    return MappingProxyType(modules)


class _NotJsonError(ValueError):
    """Why a value can't be in a config.json."""


def _json(value: Any, count: list[int], depth: int) -> Any:
    count[0] += 1
    if count[0] > _MOST_VALUES or depth > _DEEPEST:
        raise _NotJsonError(f"it holds more than {_MOST_VALUES} values, or is nested deeper than {_DEEPEST}")
    if value is None or type(value) is bool:
        return value
    text = _text(value)
    if text is not None:
        if len(text) > _LONGEST_TEXT:
            raise _NotJsonError(f"it holds a string of {len(text)} characters")
        return text
    number = _integer(value)
    if number is not None:
        if number.bit_length() > 64:
            raise _NotJsonError("it holds an integer of more than 64 bits")
        return number
    if _is_a(value, float):
        return float.__float__(value)
    if _is_a(value, Mapping):
        found: dict[str, Any] = {}
        for key, item in _items(value):
            name = _text(key)
            if name is None:
                raise _NotJsonError(f"one of its keys is {kind(key)}")
            if len(name) > _LONGEST_NAME:
                raise _NotJsonError(f"it holds a key of {len(name)} characters")
            found[name] = _json(item, count, depth + 1)
        return found
    if _is_a(value, list, tuple):
        return [_json(item, count, depth + 1) for item in _iterator(value)]
    raise _NotJsonError(f"it holds {kind(value)}")


def _is_a(value: object, *types: type) -> bool:
    """Say what a value is by its type alone: isinstance asks the value, which may say anything."""
    # Thousands of values are asked about in every process; issubclass of an abstract class is slow.
    return type(value) in types or issubclass(type(value), types)


def _text(value: Any) -> str | None:
    return plain_text(value) if _is_a(value, str) else None


def _integer(value: Any) -> int | None:
    return int.__int__(value) if _is_a(value, int) and type(value) is not bool else None


def _iterator(value: Any) -> Iterator[Any]:
    for base in (list, tuple, set, frozenset):
        if _is_a(value, base):
            return iter(base.__iter__(value))
    return iter(value)


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if _is_a(value, dict):
        return iter(dict.items(value))
    return ((key, value[key]) for key in value)


def _bounded(who: str, name: str, text: str, longest: int) -> str:
    if len(text) > longest:
        raise _error(who, name, text, f"at most {longest} characters")
    return text


def _error(who: str, name: str, value: object, form: str) -> RecordError:
    return RecordError(who, f"{name} is {shown(value)}", f"Set it to {form}.")
