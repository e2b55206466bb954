"""Writes registry/docs/reference.md out of docstrings: ``python tests/tools/make_reference.py``.

It has what signatures.txt has (make_signatures.py says what is public), in the same order, read from the sources.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import make_signatures as public

FILE = public.ROOT / "registry" / "docs" / "reference.md"
HEAD = """# Reference

What is public: hooks, records, layers, readers, conformance. `python tests/tools/make_reference.py` writes this
page out of docstrings; [signatures.txt](../../tests/unit/signatures.txt) freezes the signatures, and what changes
is in [UPGRADING.md](../UPGRADING.md). The ops, with shapes, are a table of [kernels](../../kernels/README.md).

In shapes: T tokens of a step, of all requests side by side; H query heads and G key/value heads on this rank; D
size of a head; N and `hidden` widths; I width of an MLP; V vocabulary.
"""
NAMES = re.compile(r"^([*\w, .]+?): ")
SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Yields")


def reference() -> str:
    """Return the text of the page."""
    parts = [HEAD, "## Hooks", "Functions of a plugin's module, marked with `mszoo.registry.hookimpl`."]
    for node in public._parse(public.ROOT / "registry" / "hookspecs.py").body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("mszoo_"):
            parts += _function(node, 3)
    for package in public.PACKAGES:
        parts.append(f"## {_module(package)}")
        for name, path in public._sources(package).items():
            parts += _item(name, path)
    for path, names in public.NAMES.items():
        parts.append(f"## {_module(path.removesuffix('.py'))}")
        for name in names:
            parts += _item(name, public.ROOT / path)
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _module(path: str) -> str:
    return f"mszoo.{path.replace('/', '.').removeprefix('tests.')}"


def _item(name: str, path: Path) -> list[str]:
    node = next((x for x in public._parse(path).body if getattr(x, "name", None) == name), None)
    if isinstance(node, ast.FunctionDef):
        return _function(node, 3)
    if isinstance(node, ast.ClassDef):
        return _class(node)
    return [f"### {name}", _comment(name, path)]


def _comment(name: str, path: Path) -> str:
    """Return the `#:` lines above a constant."""
    found = re.search(rf"((?:^#: .*\n)+){name}\b", path.read_text("utf-8"), re.MULTILINE)
    return _text(re.sub(r"^#: ", "", found[1], flags=re.MULTILINE)) if found else ""


def _class(node: ast.ClassDef) -> list[str]:
    bases = [base for base in map(ast.unparse, node.bases) if not base.startswith("_")]
    parts = [
        f"### {node.name}",
        f"`class {node.name}({', '.join(bases)})`" if bases else "",
        _docstring(node),
    ]
    fields = [
        f"* `{ast.unparse(item)}`".replace(
            "field(default_factory=lambda: MappingProxyType({}), hash=False)", "{}"
        )
        for item in node.body
        if isinstance(item, ast.AnnAssign | ast.Assign) and not ast.unparse(item).startswith("_")
    ]
    parts += ["**Fields**", "\n".join(fields)] if fields else []
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and (item.name == "__init__" or item.name[0] != "_"):
            parts += _function(item, 4, node.name)
    return parts


def _function(node: ast.FunctionDef, level: int, owner: str = "") -> list[str]:
    returns = (
        f" -> {ast.unparse(node.returns)}" if node.returns is not None and node.name != "__init__" else ""
    )
    arguments = ast.unparse(node.args)
    if owner:
        arguments = re.sub(r"^(self|cls)(, )?(/, )?", "", arguments)
    decorators = {ast.unparse(item) for item in node.decorator_list}
    shown = node.name if "property" in decorators else f"{node.name}({arguments}){returns}"
    heading = f"{'#' * level} {owner + '.' if owner else ''}{node.name}"
    return [heading, f"`{shown}`", _docstring(node)]


def _docstring(node: ast.FunctionDef | ast.ClassDef) -> str:
    text = ast.get_docstring(node)
    return _markdown(inspect.cleandoc(text)) if text else ""


def _markdown(text: str) -> str:
    """Turn a docstring of Google's form into Markdown: sections into lists, reST's quotes into Markdown's."""
    parts: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        first, _, rest = paragraph.partition("\n")
        section = first.removesuffix(":")
        if section in SECTIONS and first.endswith(":"):
            parts += [
                f"**{section}**",
                "\n".join(_entries(textwrap.dedent(rest), named=section not in ("Returns", "Yields"))),
            ]
        elif paragraph.startswith(" ") or re.search(r"^ {4}", paragraph, re.MULTILINE):
            block = re.sub(r"^ {4}", "", paragraph, flags=re.MULTILINE)  # a later part of it may lie deeper
            if parts and parts[-1].startswith("```"):
                block = parts.pop().removeprefix("```python\n").removesuffix("\n```") + "\n\n" + block
            parts.append(f"```python\n{block}\n```")  # tests/unit/test_pages.py runs it
        else:
            parts.append(_text(paragraph))
    return "\n\n".join(parts)


def _entries(text: str, *, named: bool) -> Iterator[str]:
    """Give the entries of a section as a list's lines; where they are named, the name is a literal."""
    entry = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith(" "):
            entry += f" {line.strip()}"
            continue
        if entry:
            literal = NAMES.sub(r"``\1``: ", entry) if named else entry
            yield f"* {_text(literal)}"
        entry = line


def _text(text: str) -> str:
    """Return text on one line with reST's literals and roles as Markdown's; what is in them stays as it is."""
    literal = re.sub(r":\w+:`~?([^`]+)`", r"``\1``", " ".join(text.split()))
    pieces = re.split(r"``(.+?)``", literal)
    return "".join(
        f"`{piece}`" if index % 2 else piece.replace("<", r"\<") for index, piece in enumerate(pieces)
    )


if __name__ == "__main__":
    FILE.write_text(reference(), "utf-8")
