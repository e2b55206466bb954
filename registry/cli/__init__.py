"""The ``mszoo`` command: what is registered, what was decided, and why.

Exit status: 0 good, 1 problems were found, 2 bad usage. Importing this package imports none of vllm, torch
and mindspore, so that the command starts fast and runs without them.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, TextIO

import typer

from mszoo.registry.cli.commands import Commands
from mszoo.registry.errors import sentence

__all__ = ["build", "main"]


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
    app = typer.Typer(name="mszoo", cls=Commands, no_args_is_help=True, pretty_exceptions_show_locals=False)
    app.callback()(_options)
    return app


def main() -> None:
    """Run the command; the entry point of the ``mszoo`` script."""
    if sys.stdout is not None and sys.stdout is sys.__stdout__:
        sys.stdout = _own_stdout()
    try:
        try:
            build()()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if error.filename is not None:
            raise
        # What Python still holds for a full disk, or a reader that went away, is lost; it would say so at its end.
        with open(os.devnull, "wb") as sink:
            os.dup2(sink.fileno(), sys.stdout.fileno())
        if error.errno != errno.EPIPE:
            what = f"the report can't be written ({error.strerror})"
            typer.echo(sentence("mszoo", what, "Send it to another place."), err=True)
        raise SystemExit(1) from None


def _own_stdout() -> TextIO:
    """Return stdout for our reports alone: what C code and children of plugins print goes to stderr."""
    sys.stdout.flush()
    copy = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return open(copy, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
