"""Text from outside, made safe to print: one line, no terminal escapes, no reordering, of bounded length."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

_LONGEST = 500
_LONGEST_NAME = 80
_LONGEST_VALUE = 120


def plain_text(value: str) -> str:
    """Return a string as one of str itself: what a subclass does to its operators ends here."""
    return value if type(value) is str else str.__str__(value)


def printable(text: str, longest: int = _LONGEST) -> str:
    r"""Return text that any terminal shows as it is.

    White space becomes blanks; control characters, such as those of terminal escapes, and those that reorder or
    hide text become escapes such as ``\x1b``; what is longer than ``longest`` characters is cut, its length told.
    """
    text = plain_text(text)
    if len(text) <= longest and text.isprintable():
        return text
    shown = "".join(map(_shown, text[:longest]))
    return shown if len(text) <= longest else f"{shown}... ({len(text)} characters)"


def class_name(found: type) -> str:
    """Return the name of a class, whatever it and its metaclass do to it."""
    return printable(type.__dict__["__name__"].__get__(found), _LONGEST_NAME)


def type_name(value: object) -> str:
    """Return the name of a value's type."""
    return class_name(type(value))


def kind(value: object) -> str:
    """Return what a value is: ``None``, ``a str``, ``an int``."""
    name = type_name(value)
    return "None" if value is None else f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def shown(value: Any) -> str:
    """Return a value as Python writes it, for a message; short, and whatever its own ``__repr__`` does."""
    if issubclass(type(value), str):
        text = plain_text(value)
        more = f"... ({len(text)} characters)" if len(text) > _LONGEST_VALUE else ""
        return f"{text[:_LONGEST_VALUE]!r}{more}"
    try:
        return printable(repr(value), _LONGEST_VALUE)
    except Exception:  # of whatever it raises; integers of thousands of digits do, too
        return kind(value)


def describe(error: BaseException, *, place: bool = True) -> str:
    """Return an error as ``ValueError: text (file.py:12)``, without the place if that is our own code.

    Args:
        error: of any class, and with any text.
        place: False leaves out where it was raised.
    """
    text = f"{type_name(error)}: {_error_text(error)}".rstrip(": .")
    # Not traceback.extract_tb, which reads the source of whatever file a frame names.
    frames = list(traceback.walk_tb(BaseException.__dict__["__traceback__"].__get__(error)))
    places = [(Path(frame.f_code.co_filename), line) for frame, line in frames]
    places = [(path, line) for path, line in places if path.name[:1] != "<" and "importlib" not in path.parts]
    if not place or not places or places[-1][0].parent == Path(__file__).parent:
        return text
    return f"{text} ({printable(places[-1][0].name, _LONGEST_NAME)}:{places[-1][1]})"


def _error_text(error: BaseException) -> str:
    """Return an error's text on one line, whatever its class does to it."""
    try:
        text = str(error)
    except BaseException as failure:  # a SystemExit from there would end the server
        return f"no text, its __str__ raised {type_name(failure)}"
    return " ".join(printable(text).split())


def _shown(char: str) -> str:
    if char.isprintable():
        return char
    return " " if char.isspace() else char.encode("unicode_escape").decode("ascii")
