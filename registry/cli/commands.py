"""The commands of ``mszoo``: its own, and those that installed packages add; each is imported when it is needed.

A package adds a command with an entry point in the group ``mszoo.commands``: its name is the command's, and it
loads a function as ``typer.Typer.command`` takes it, or a ``typer.Typer``. It should import what takes long inside
the function: ``mszoo --help`` loads all of them. A plugin gives commands by the hook ``mszoo_commands`` too;
plugins are loaded for that by ``mszoo --help`` and for a name that is nobody else's.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from mszoo.registry.containment import caught, contained
from mszoo.registry.entry_points import Plugin, ordered, readable
from mszoo.registry.errors import MszooError, sentence
from mszoo.registry.objects import load_object
from mszoo.registry.text import describe

# A lock is rare.
if TYPE_CHECKING:
    from mszoo.registry.lock import Lock

GROUP = "mszoo.commands"
_OWN = {
    "list": "mszoo.registry.cli.list:list_adapters",
    "doctor": "mszoo.registry.cli.doctor:doctor",
    "check": "mszoo.registry.cli.check:check",
    "lock": "mszoo.registry.cli.lock:lock",
    "new": "mszoo.registry.cli.new:new",
}
_BAD_USAGE = 2
_SLOW = 1.0  # seconds of computing: a busy machine or a cold disk is nobody's fault
_FIX = "Fix or upgrade {}, or uninstall it to go on without the command."


class Commands(TyperGroup):
    """The group of all commands; shows our own errors as one line, without our call stack."""

    @functools.cached_property
    def _loaders(self) -> dict[str, tuple[str, Callable[[], Any]]]:
        """Who gives a command, and what loads it, by the command's name."""
        loaders: dict[str, tuple[str, Callable[[], Any]]] = {
            name: ("mszoo", functools.partial(load_object, path)) for name, path in _OWN.items()
        }
        found, problems = readable(GROUP)
        for problem in problems:
            typer.echo(str(problem), err=True)
        lock = _lock()
        for plugin, entry_point in ordered(found):
            if lock is not None and plugin.distribution not in ("mszoo", *lock.code):
                what = "is left out: the lock of MSZOO_LOCK doesn't list its distribution"
                hint = "Lock it with `mszoo lock`, or unset MSZOO_LOCK."
                typer.echo(sentence(f"command {plugin.name!r} of {plugin.source}", what, hint), err=True)
            elif plugin.name in loaders:
                who = f"command {plugin.name!r} of {plugin.source}"
                what = f"has the name of one of {loaders[plugin.name][0]}; this one is left out"
                typer.echo(sentence(who, what, f"Rename it, or uninstall {plugin.distribution}."), err=True)
            else:
                load = entry_point.load
                if lock is not None and plugin.distribution != "mszoo":
                    load = functools.partial(_load_locked, lock, plugin, entry_point)
                loaders[plugin.name] = (plugin.source, load)
        return loaders

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except MszooError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(_BAD_USAGE) from error
        except OSError as error:
            if error.filename is None:  # of the report, not of a file that somebody named
                raise
            who, what = os.fsdecode(error.filename), f"can't be used ({error.strerror})"
            typer.echo(sentence(who, what, "Give another path, or mend this one."), err=True)
            raise typer.Exit(_BAD_USAGE) from error

    @functools.cached_property
    def _of_plugins(self) -> dict[str, tuple[str, Callable[[], Any]]]:
        """Who gives a command by the hook ``mszoo_commands``, and what loads it, by the command's name."""
        from mszoo.registry.cli.plugin_commands import commands_of_plugins

        found, problems = commands_of_plugins(self._loaders)
        for problem in problems:
            typer.echo(str(problem), err=True)
        return {
            name: (source, functools.partial(load_object, path)) for name, (source, path) in found.items()
        }

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands, in the order of ``--help``."""
        return [*self._loaders, *self._of_plugins]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Load a command; None if there is none or it can't be loaded; standard error says why."""
        if cmd_name not in self.commands:
            loaders = self._loaders if cmd_name in self._loaders else self._of_plugins
            if cmd_name not in loaders:
                return None
            command = _load(cmd_name, *loaders[cmd_name])
            if command is None:
                del loaders[cmd_name]
                return None
            self.commands[cmd_name] = command
        return self.commands.get(cmd_name)


def _lock() -> Lock | None:
    """Return the lock in force; an empty one where it can't be read, which the commands say."""
    from mszoo.registry.settings import Settings

    try:
        path = Settings.from_environ().lock
    except MszooError:
        return None
    if path is None:
        return None
    from mszoo.registry.lock import Lock, read_lock

    try:
        return read_lock(path)
    except MszooError:
        return Lock("", "", "")


def _load_locked(lock: Lock, plugin: Plugin, entry_point: EntryPoint) -> Any:
    from mszoo.registry.lock_plugins import LockedCode

    LockedCode(lock).check(plugin, entry_point)
    return entry_point.load()


def _load(name: str, source: str, load: Callable[[], Any]) -> Any:
    who, distribution = f"command {name!r} of {source}", source.partition(" ")[0]
    start = time.process_time()
    with contained(heavy=True) as traces, caught() as failure:
        found = load()
        app = found if isinstance(found, typer.Typer) else typer.Typer(add_completion=False)
        if app is not found:
            app.command(name)(found)
        command = typer.main.get_command(app)
    for trace in traces:
        typer.echo(sentence(who, trace.what, trace.hint), err=True)
    if failure.error is not None:
        what = f"can't be loaded ({describe(failure.error)}); the others work"
        typer.echo(sentence(who, what, _FIX.format(distribution)), err=True)
        return None
    seconds = time.process_time() - start
    if seconds > _SLOW:
        what = f"takes {seconds:.1f} s to import, which delays `mszoo --help`"
        typer.echo(sentence(who, what, "Import what takes long inside the command's function."), err=True)
    command.name = name
    return command
