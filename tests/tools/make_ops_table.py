"""Writes the table of ops in kernels/README.md, from the specs: run it as it is."""

from __future__ import annotations

from pathlib import Path

from mszoo.kernels.spec import SPECS

PAGE = Path(__file__).resolve().parents[2] / "kernels" / "README.md"
BEGIN, END = "<!-- ops: begin -->", "<!-- ops: end -->"


def table() -> str:
    """Return the table, between its markers."""
    rows = [
        f"| `{name}` | {spec.meaning.replace('``', '`').replace('|', '/')} | {_overwrites(spec.overwrites)} |"
        for name, spec in SPECS.items()
    ]
    return "\n".join([BEGIN, "| op | meaning | may overwrite |", "|---|---|---|", *rows, END])


def _overwrites(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def main() -> None:
    """Put the table in place of the one that is there."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(before + table() + rest.partition(END)[2], "utf-8")


if __name__ == "__main__":
    main()
