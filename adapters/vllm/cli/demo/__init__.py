"""The command `mszoo demo-model DIR`."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from mszoo.adapters.vllm.cli.demo import folder, random_llava
from mszoo.adapters.vllm.cli.demo.smollm2 import DemoModelError

NAME = "SmolLM2-135M-Instruct"


def demo_model(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for the model (273 MB).")],
    image: Annotated[
        bool,
        typer.Option("--image", help="Instead a tiny random LLaVA: its path works, its words mean nothing."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a demo model that mszoo made earlier.")
    ] = False,
) -> None:
    """Write SmolLM2-135M-Instruct as an ordinary Hugging Face folder that vLLM can serve.

    With --image a LLaVA of random weights, since no package has a small real one.
    """
    signal.signal(signal.SIGTERM, _terminate)
    if image and force:
        raise typer.BadParameter("a random model replaces no folder", param_hint="--force")
    try:
        if image:
            random_llava.make(directory)
            typer.echo(
                f"A LLaVA of random weights is in {directory}: it reads images, and its words mean nothing"
            )
            typer.echo(f"Serve it: vllm serve {shlex.quote(str(directory))} --dtype float32")
            return
        written = make_with_progress(directory, force=force)
    except DemoModelError as error:
        typer.echo(f"mszoo: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("mszoo: interrupted, nothing was written", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"{NAME} is in {directory}" if written else f"{NAME} was already in {directory}")
    typer.echo(f"Serve it: vllm serve {shlex.quote(str(directory))} --dtype float32 --max-model-len 2048")


def make_with_progress(directory: Path, *, force: bool = False) -> bool:
    """`folder.make` with a progress bar on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(NAME, total=None)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        return folder.make(directory, force=force, advance=advance)


def _terminate(*_: object) -> NoReturn:
    # Leaves through the clean-up code; the default action would leave a half-written folder behind.
    raise SystemExit(128 + signal.SIGTERM)
