"""Reports as one HTML page each, self-contained: no network, no script but the filters', text from outside escaped.

A page shows the plain data that ``--json`` prints. Its own style and script are allowed by their hashes and nothing
else is (Content-Security-Policy), so that text which came through as markup would load and run nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from mszoo.registry.errors import MszooError
from mszoo.registry.files import check_writable, write_whole
from mszoo.registry.text import printable

_LONGEST = 4000  # characters of a line

HtmlOption = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE.html", help="Write the report as one HTML page, too."),
]


def check_can_write(path: Path | None) -> None:
    """Say before long work that the page couldn't be written; nothing for None.

    Raises:
        MszooError: the place can't be written, or Jinja isn't installed.
    """
    if path is None:
        return
    if find_spec("jinja2") is None:
        hint = "It comes with vLLM. Install it: pip install 'mszoo[conformance]'."
        raise MszooError("--html", "jinja2 is not installed", hint)
    check_writable(path)


def write_page(path: Path, name: str, report: Mapping[str, Any]) -> None:
    """Write a report as a page, whole or not at all.

    Args:
        path: the file.
        name: of the page: ``explain`` or ``check``.
        report: what the command's ``--json`` prints.

    Raises:
        MszooError: it can't be written.
    """
    write_whole(path, page(name, report))


def page(name: str, report: Mapping[str, Any]) -> str:
    """Return a report as a page; the arguments are those of write_page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # vLLM brings it, and few want a page
    from markupsafe import Markup

    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (folder / "page.css").read_text("utf-8")
    script = (folder / "filters.js").read_text("utf-8")
    allowed = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'"
    template = environment.get_template(f"{name}.html.jinja")
    return template.render(
        report=_shown(report), style=Markup(style), script=Markup(script), allowed=Markup(allowed)
    )


def _hash(text: str) -> str:
    """Return what a policy calls an element of this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _shown(value: Any) -> Any:
    """Return plain data whose text is safe to show: no control or reordering characters, lines kept."""
    if isinstance(value, str):
        return "\n".join(printable(line, _LONGEST) for line in value.splitlines())
    if isinstance(value, Mapping):
        return {_shown(key): _shown(item) for key, item in value.items()}
    return [_shown(item) for item in value] if isinstance(value, (list, tuple)) else value
