"""Holds an op that somebody else gives to its spec: what it returns is looked at before anybody reads its memory.

Whoever takes a result reads and writes as many elements as the spec says; an op that returned fewer ended the
process with ``free(): invalid size``. At a few microseconds a call it is looked at every time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mszoo.kernels.spec import SPECS
from mszoo.registry.errors import PluginError

import mindspore as ms


class _Like(NamedTuple):
    """What a spec's fake takes and returns in place of a tensor."""

    shape: tuple[int, ...]
    dtype: Any

    def new_empty(self, shape: tuple[int, ...]) -> _Like:
        return _Like(tuple(shape), self.dtype)

    def __str__(self) -> str:
        return f"{list(self.shape)} of {str(self.dtype).lower()}"


def checked(op: str, function: Callable[..., Any], who: str, hint: str) -> Callable[..., Any]:
    """Return ``function`` with its results looked at.

    Args:
        op: the name of the spec.
        function: takes and returns tensors of MindSpore's, as the spec says.
        who: whose it is, for messages.
        hint: how to mend it, a sentence.

    Returns:
        A function that raises PluginError where the result has another shape or dtype than the spec says, or is no
        tensor.
    """
    fake = SPECS[op].fake

    def call(*args: Any, **kwargs: Any) -> Any:
        expected = fake(*map(_like, args), **{name: _like(value) for name, value in kwargs.items()})
        result = function(*args, **kwargs)
        if type(result) is list:
            result = tuple(result)
        found = tuple(map(_like, result)) if issubclass(type(result), tuple) else _like(result)
        if not _is(found, expected):
            raise PluginError(who, f"{op} gave {_name(found)}, not {_name(expected)}", hint)
        return result

    return call


def _like(value: Any) -> Any:
    return _Like(value.shape, value.dtype) if issubclass(type(value), ms.Tensor) else value


def _is(found: Any, expected: Any) -> bool:
    """Say whether two are the same; nothing of the plugin's is asked."""
    if type(expected) is tuple:
        return type(found) is tuple and len(found) == len(expected) and all(map(_is, found, expected))
    return type(found) is _Like and found == expected


def _name(found: Any) -> str:
    if type(found) is tuple:
        return " and ".join(map(_name, found)) or "an empty tuple"
    if type(found) is _Like:
        return str(found)
    return "None" if found is None else f"a {type(found).__name__}"
