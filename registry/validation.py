"""Checks of record fields; each returns the normalised value or raises a RecordError naming the field."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mszoo.registry.errors import RecordError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_DOTTED = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_NAME = r"[A-Za-z_][A-Za-z0-9_-]*"
NAME = re.compile(_NAME)
SUITE_NAME = re.compile(f"(?!vllm$){_NAME}")
OBJECT_PATH = re.compile(f"{_DOTTED}:{_DOTTED}")
LAYER_TARGET = re.compile(rf"vllm:[A-Za-z_]\w*|(?!vllm:){_NAME}:{_DOTTED}:{_DOTTED}")
OP_NAME = re.compile(_DOTTED)


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

    try:
        marker = parse_requirement(text).marker
        # Some markers parse and can't be evaluated: extras == "vision".
        if marker is not None:
            marker.evaluate({"extra": ""})
    except (InvalidRequirement, InvalidVersion, UndefinedComparison, UndefinedEnvironmentName) as error:
        return error
    return None


def check_text(who: str, name: str, value: object) -> None:
    """Refuse anything but one line of text that any terminal can show."""
    if not isinstance(value, str) or not value.isprintable():
        raise _error(who, name, value, "a string of one line")


def check_integer(who: str, name: str, value: object) -> None:
    """Refuse anything but an integer; a bool is a slip, not a number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise _error(who, name, value, "an integer")


def check_pattern(who: str, name: str, value: object, pattern: re.Pattern[str], form: str) -> None:
    """Refuse a value that doesn't match the whole pattern; `form` says in words what it should look like."""
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise _error(who, name, value, form)


def check_strings(who: str, name: str, value: object) -> tuple[str, ...]:
    """Return an iterable of strings as a tuple without repeats, in its order (sets: sorted)."""
    # A lone string is iterable too, letter by letter: always a forgotten comma or bracket.
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise _error(who, name, value, "a tuple of strings")
    items = tuple(value)
    if not all(isinstance(item, str) for item in items):
        raise _error(who, name, value, "a tuple of strings")
    return tuple(sorted(items) if isinstance(value, (set, frozenset)) else dict.fromkeys(items))


def check_members(
    who: str, name: str, value: object, known: tuple[str, ...], may_be_empty: bool = False
) -> tuple[str, ...]:
    """Return an iterable of strings, each of them known, as a tuple."""
    items = check_strings(who, name, value)
    if not may_be_empty and not items:
        raise _error(who, name, value, f"at least one of {', '.join(known)}")
    for item in items:
        if item not in known:
            raise _error(who, name, str(item), f"any of {', '.join(known)}")
    return items


def check_requirements(who: str, name: str, value: object) -> tuple[str, ...]:
    """Return an iterable of requirement strings (``"mindformers>=1.9"``) as a tuple."""
    items = check_strings(who, name, value)
    for item in items:
        error = _requirement_error(item)
        if error is not None:
            raise _error(who, name, item, "a requirement string such as 'mindformers>=1.9'") from error
    return items


def check_mapping(who: str, name: str, value: object) -> Mapping[str, Any]:
    """Return a read-only copy of a mapping with string keys."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _error(who, name, value, "a mapping with string keys")
    return MappingProxyType(dict(value))


def check_config(who: str, name: str, value: object) -> Mapping[str, Any]:
    """Return a read-only copy of the fields of a config.json; lists stay lists, tuples become lists."""
    config = check_mapping(who, name, value)
    try:
        return MappingProxyType(json.loads(json.dumps(dict(config))))
    except (TypeError, ValueError, RecursionError) as error:
        hint = "Give it what a config.json may hold."
        raise RecordError(who, f"{name} isn't JSON ({error})", hint) from error


def check_modules(who: str, name: str, value: object) -> Mapping[str, tuple[str, ...]]:
    """Return a read-only mapping of one fused layer name to the checkpoint names that it holds."""
    modules = check_mapping(who, name, value)
    return MappingProxyType(
        {fused: check_strings(who, f"{name}[{fused!r}]", parts) for fused, parts in modules.items()}
    )


def _error(who: str, name: str, value: object, form: str) -> RecordError:
    return RecordError(who, f"{name} is {value!r}", f"Set it to {form}.")
