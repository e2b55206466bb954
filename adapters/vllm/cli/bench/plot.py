"""The plot of ``mszoo bench --plot FILE``: a bar for each figure, MindSpore's as a multiple of vLLM's own."""

from __future__ import annotations

from pathlib import Path

from mszoo.adapters.vllm.cli.bench.report import Row
from mszoo.registry.errors import MszooError
from mszoo.registry.files import check_writable, writing

_COLOURS = {"better": "#2a9d5c", "worse": "#c8503c", "same": "#8a8f98"}


def check_can_plot(path: Path) -> None:
    """Raise MszooError, before anything is measured, if the plot can't be drawn or written."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        hint = "Install it: pip install 'mszoo[plot]'"
        raise MszooError("--plot", f"needs matplotlib ({error})", hint) from None
    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in formats:
        hint = f"Name it with one of: {', '.join(sorted(formats))}"
        raise MszooError("--plot", f"{path.name} has no suffix of an image format", hint)
    if not path.absolute().parent.is_dir():
        raise MszooError("--plot", f"{path.absolute().parent} is not a folder", "Create it first")
    check_writable(path)


def plot(rows: list[Row], title: str, path: Path) -> None:
    """Draw the rows into a file, whose suffix says the format.

    A bar is the ratio of a row, turned so that longer is better everywhere; the thin line goes from the worst to
    the best pair of runs.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.9 + 0.42 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        pairs = sorted(_gain(row, a / b) for a, b in zip(row.mindspore, row.vllm, strict=True))
        gain = _gain(row, row.ratio)
        axes.barh(place, gain, color=_COLOURS[row.verdict], height=0.6)
        axes.plot((pairs[0], pairs[-1]), (place, place), color="black", linewidth=1)
        axes.annotate(f" {gain:.2f}", (max(gain, pairs[-1]), place), va="center", fontsize=9)
    axes.axvline(1, color="black", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("MindSpore against vLLM's own model (1 = the same, more is better)")
    axes.set_title(title, fontsize=10)
    with writing(path) as scratch:
        figure.savefig(scratch, format=path.suffix.lstrip(".").lower())


def _gain(row: Row, ratio: float) -> float:
    return ratio if row.higher_is_better else 1 / ratio
