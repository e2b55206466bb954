"""The ``mszoo`` command: what is registered, what was decided, and why.

Exit status: 0 good, 1 problems were found, 2 bad usage. Importing this package imports none of vllm, torch
and mindspore, so that the command starts fast and runs without them.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from mszoo.registry.errors import MszooError

__all__ = ["build", "main"]

_BAD_USAGE = 2


class _Group(TyperGroup):
    """Shows our own errors as one line: the reader needs their text, not our call stack."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except MszooError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(_BAD_USAGE) from error


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"mszoo {version('mszoo')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Serve MindSpore models with plain vLLM: see what is registered and who serves what."""


def build() -> typer.Typer:
    """Return the command with all its subcommands."""
    from .bench import bench
    from .check import check
    from .demo_model import demo_model
    from .doctor import doctor
    from .explain import explain
    from .list import list_adapters
    from .lock import lock
    from .new import new

    app = typer.Typer(name="mszoo", cls=_Group, no_args_is_help=True, pretty_exceptions_show_locals=False)
    app.callback()(_options)
    app.command("list")(list_adapters)
    app.command("explain")(explain)
    app.command("doctor")(doctor)
    app.command("check")(check)
    app.command("lock")(lock)
    app.command("new")(new)
    app.command("bench")(bench)
    app.command("demo-model")(demo_model)
    return app


def main() -> None:
    """Run the command; the entry point of the ``mszoo`` script."""
    if sys.stdout is not None and sys.stdout is sys.__stdout__:
        sys.stdout = _own_stdout()
    build()()


def _own_stdout() -> TextIO:
    """Return stdout for our reports alone: what C code and children of plugins print goes to stderr."""
    sys.stdout.flush()
    copy = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return open(copy, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
