"""Calls hooks plugin by plugin, so that one failing plugin is named and the others go on."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pluggy

logger = logging.getLogger(__name__)
_LONGEST_TEXT = 500


@dataclass(frozen=True)
class Outcome:
    """What one plugin's implementation of a hook gave: a value, or the error that it raised."""

    plugin: str
    value: Any = None
    error: BaseException | None = None


def call_hook(
    manager: pluggy.PluginManager,
    hook: str,
    arguments: Mapping[str, Any] | None = None,
    plugin: str | None = None,
) -> Iterator[Outcome]:
    """Call a hook's implementations one by one in pluggy's order (last registered first); never raises.

    Args:
        manager: the plugin manager of a Discovery.
        hook: the hook's name.
        arguments: the hook's arguments; an implementation gets those it names.
        plugin: call this plugin's implementations only.
    """
    for implementation in reversed(getattr(manager.hook, hook).get_hookimpls()):
        name = implementation.plugin_name
        if plugin not in (None, name):
            continue
        values = [(arguments or {})[argument] for argument in implementation.argnames]
        try:
            with stdout_guarded():
                value = implementation.function(*values)
        except KeyboardInterrupt:
            raise
        # A plugin that calls sys.exit() must not end the server either.
        except BaseException as error:
            logger.debug("%s of plugin %s raised", hook, name, exc_info=error)
            yield Outcome(name, error=error)
        else:
            yield Outcome(name, value)


@contextmanager
def stdout_guarded() -> Iterator[None]:
    """Send what a plugin prints to stderr: our stdout may be JSON that a program reads."""
    with redirect_stdout(sys.stderr):
        yield


def describe(error: BaseException) -> str:
    """Return an error as ``ValueError: text (file.py:12)``, without the place if that is our own code."""
    text = f"{type(error).__name__}: {_text(error)}".rstrip(": .")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and "importlib" not in Path(frame.filename).parts
    ]
    if not frames or Path(frames[-1].filename).parent == Path(__file__).parent:
        return text
    return f"{text} ({Path(frames[-1].filename).name}:{frames[-1].lineno})"


def _text(error: BaseException) -> str:
    """Return an error's text, whatever its class does to it: short, and without control characters."""
    try:
        text = str(error)
    except Exception as failure:
        return f"no text, its __str__ raised {type(failure).__name__}"
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."
