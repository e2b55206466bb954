"""``mszoo bench``: a MindSpore model in vLLM against vLLM's own model of the same checkpoint."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mszoo.adapters.vllm.cli.bench.agreement import compare
from mszoo.adapters.vllm.cli.bench.job import VLLM, BenchError, Outputs, Result, Workload
from mszoo.adapters.vllm.cli.bench.plot import check_can_plot, plot
from mszoo.adapters.vllm.cli.bench.report import bench_json, machine, print_report, rows
from mszoo.adapters.vllm.cli.bench.runs import TITLES, Plan, measure, rehearse
from mszoo.adapters.vllm.cli.explain.folder import read_architectures
from mszoo.registry.catalog import Catalog
from mszoo.registry.cli.report import JsonOption, TrustOption, choice, chosen_device, console, print_json
from mszoo.registry.files import make_folder
from mszoo.registry.load import load_catalog
from mszoo.registry.records import DTYPES, ModelAdapter
from mszoo.registry.settings import Settings
from mszoo.registry.text import printable


def bench(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A Hugging Face model folder.")],
    dtype: Annotated[str, choice(("auto", *DTYPES), help="auto: the checkpoint's.")] = "auto",
    batch: Annotated[str, typer.Option(help="Numbers of prompts decoded at once.")] = "1,8,32",
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of each decoded prompt.")] = 16,
    new: Annotated[int, typer.Option(min=2, help="Tokens decoded for each prompt.")] = 64,
    prefill: Annotated[int, typer.Option(min=1, help="Tokens of the prompt for prefill.")] = 512,
    images: Annotated[int, typer.Option(min=0, help="Images in front of the prompt for prefill.")] = 0,
    image_size: Annotated[int, typer.Option(min=1, help="Height and width of an image, in pixels.")] = 336,
    runs: Annotated[int, typer.Option(min=1, help="Fresh processes of each side.")] = 3,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements in a process; their median counts.")] = 3,
    eager: Annotated[bool, typer.Option("--eager", help="vLLM's --enforce-eager on both sides.")] = False,
    kernels: Annotated[
        str | None, typer.Option(help="MSZOO_KERNELS of the MindSpore side, such as mindspore.")
    ] = None,
    speculative_config: Annotated[
        str,
        typer.Option(metavar="JSON", help="vLLM's: what proposes tokens, on both sides."),
    ] = "",
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the ratios, such as bench.svg.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the log and result of each run.")
    ] = None,
) -> None:
    """Compare the speed of a MindSpore model with vLLM's own model of the same checkpoint.

    Each run is a fresh process, the sides take turns, with the same flags.
    Decoding is timed without the time to the first token; an encoder's texts are pooled, and nothing is decoded.
    With --images each prefill has new ones, prepared and all.
    Both sides must give the same outputs, or no figure is shown.
    Exits with 1 if they differ, or if a side can't run.
    """
    batches, speculative = _numbers(batch), _speculative(speculative_config)
    settings = {"MSZOO_KERNELS": kernels} if kernels is not None else {}
    if kernels is not None:
        kernels = Settings.from_environ(settings).kernels
    if plot_file is not None:
        check_can_plot(plot_file)
    directory = Path(os.path.expanduser(directory))
    architectures = read_architectures(directory)
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGHUP, _terminate)
    try:
        catalog, adapter = _require_adapter(directory, architectures, {**os.environ, **settings})
        if images and "image" not in adapter.modalities:
            what = f"{adapter.architecture} reads no images"
            raise BenchError(str(directory), what, "Leave --images out, or name a model that reads them")
        if speculative and adapter.task:
            what = f"{adapter.architecture} generates no text, and nothing can be proposed"
            raise BenchError(str(directory), what, "Leave --speculative-config out")
        workload = Workload(
            str(directory),
            dtype,
            batches,
            prompt,
            new,
            prefill,
            eager,
            adapter.task,
            repeats,
            adapter.modalities,
            images,
            image_size,
            trust_remote_code,
            speculative,
        )
        here = machine()
        plan, results, reference = _run(workload, runs, kernels, log)
    except BenchError as error:
        for line in error.lines:
            typer.echo(printable(line, 2000), err=True)
        typer.echo(f"mszoo: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("mszoo: interrupted, everything it started was stopped", err=True)
        raise typer.Exit(130) from None
    if as_json:
        print_json(bench_json(catalog, here, plan, results, reference))
    else:
        print_report(console(), here, plan, results, reference)
    if plot_file is not None:
        title = f"{directory.name}, {results[VLLM][-1].dtype}, {here['cpu']}, {here['cores']} cores"
        plot(rows(results, workload), title, plot_file)


def _run(
    workload: Workload, runs: int, kernels: str | None, log: Path | None
) -> tuple[Plan, dict[str, list[Result]], Outputs | None]:
    """Run both sides with a progress bar; logs that nobody asked for stay only where a run failed."""
    if log is not None:
        make_folder(log, BenchError)
    plan = Plan(workload, runs, kernels, log or Path(tempfile.mkdtemp(prefix="mszoo-bench-log-")))
    failed = False
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    stderr = Console(stderr=True)
    try:
        with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
            task = progress.add_task("reading the model and the frameworks", total=2 * runs)

            def begin(number: int, side: str) -> None:
                text = f"run {number + 1} of {2 * runs}: {TITLES[side]}"
                progress.update(task, completed=number, description=text)

            def check(mindspore: Result, vllm: Result, reference: Outputs | None) -> None:
                compare(mindspore, vllm, reference)

            rehearse(plan, os.environ)
            return plan, *measure(plan, os.environ, begin, check)
    except BenchError:
        failed = True
        raise
    finally:
        if log is None and not failed:
            shutil.rmtree(plan.logs, ignore_errors=True)


def _require_adapter(
    directory: Path, architectures: list[str], environ: Mapping[str, str]
) -> tuple[Catalog, ModelAdapter]:
    """Return the catalog and the record of who serves; BenchError if no MindSpore model serves the folder."""
    catalog = load_catalog(environ, chosen_device(None))
    winners = [catalog.decide(name).winner for name in architectures]
    found = next((winner for winner in winners if winner is not None), None)
    if found is None:
        what = f"no MindSpore model serves {', '.join(architectures)}"
        raise BenchError(str(directory), what, f"See why: mszoo explain {shlex.quote(str(directory))}")
    return catalog, found.adapter


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(item) for item in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(f"{text!r} is not a list such as 1,8,32", param_hint="--batch")
    return numbers


def _speculative(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        example = '{"method": "ngram", "num_speculative_tokens": 3}'
        raise typer.BadParameter(
            f"{text!r} is not a JSON object such as {example}", param_hint="--speculative-config"
        )
    return found


def _terminate(signum: int, _: object) -> NoReturn:
    # Leaves through the `with` blocks that stop the processes; the default action would leave them running.
    raise SystemExit(128 + signum)
