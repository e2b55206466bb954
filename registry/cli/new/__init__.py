"""``mszoo new``: writes a complete package that registers a model of its own."""

from __future__ import annotations

import ast
import contextlib
import importlib.resources
import keyword
import os
import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Annotated

import typer

from mszoo.registry.availability import installed_version
from mszoo.registry.cli.report import JsonOption, choice, chosen_device, print_json
from mszoo.registry.devices import TABLE
from mszoo.registry.errors import MszooError
from mszoo.registry.load import load_catalog
from mszoo.registry.objects import find_module, locations_of
from mszoo.registry.validation import SUITE_NAME

_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_PREFIX = "mszoo_"
#: Files of every package, and the template of each.
_FILES = {
    "pyproject.toml": "pyproject.toml",
    ".gitignore": "gitignore",
    ".github/workflows/check.yml": "workflow.yml",
    "@PACKAGE@/__init__.py": "init.py",
    "@PACKAGE@/py.typed": "py.typed",
}
#: Files that each kind has its own template of, in a folder of the kind's name.
_OF_EACH_KIND = {
    "README.md": "README.md",
    "@PACKAGE@/adapter.py": "adapter.py",
    "@PACKAGE@/conformance.py": "conformance.py",
    "tests/test_conformance.py": "test_conformance.py",
}
_MODEL, _NETWORK, _LAYERS, _OPS = (
    {f"@PACKAGE@/{name}.py": f"{name}.py"} for name in ("model", "network", "layers", "ops")
)


@dataclass(frozen=True)
class Kind:
    """What a package registers.

    Args:
        noun: what it is called in the package's texts.
        files: those that this kind alone has.
        subject: what is checked and explained, with the names to fill in.
    """

    noun: str
    files: dict[str, str]
    subject: str


KINDS = {
    "decoder": Kind("model", _MODEL, "@PREFIX@ForCausalLM"),
    "encoder": Kind("model", _MODEL, "@PREFIX@Model"),
    "multimodal": Kind("model", _MODEL, "LlavaForConditionalGeneration"),
    "cells": Kind("model", _MODEL | _NETWORK, "@PREFIX@ForCausalLM"),
    "layer": Kind("layer", _LAYERS, "vllm:RMSNorm"),
    "op": Kind("op", _OPS, "rms_norm"),
}


@dataclass(frozen=True)
class Names:
    """What the parts of a package are called.

    Args:
        distribution: what pip installs.
        package: what Python imports.
        suite: what mszoo lists.
        prefix: what its classes begin with.
    """

    distribution: str
    package: str
    suite: str
    prefix: str

    def fill(self, text: str) -> str:
        """Put the names in place of ``@DISTRIBUTION@``, ``@PACKAGE@``, ``@SUITE@`` and ``@PREFIX@``."""
        for name, value in vars(self).items():
            text = text.replace(f"@{name.upper()}@", value)
        return text


def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What pip will install, such as mszoo-example.")
    ],
    directory: Annotated[
        Path | None, typer.Option("--directory", metavar="DIR", help="Where to write it. Default: ./NAME.")
    ] = None,
    kind: Annotated[
        str,
        choice(
            tuple(KINDS), "--kind", help="What it registers: a model of one of four kinds, a layer, an op."
        ),
    ] = "decoder",
    as_json: JsonOption = False,
) -> None:
    """Write a package that registers a model, layer or op of its own, with tests; it works as it is.

    No file is overwritten.
    """
    names = names_of(name)
    taken = [item.suite.name for item in load_catalog(device=chosen_device(None)).discovery.contributions]
    check_free(names, taken)
    folder = Path(os.path.expanduser(directory or names.distribution)).absolute()
    files = write(names, folder, kind)
    if as_json:
        # Keys: the four names, ``kind``, ``subject`` (the architecture, layer or op), ``directory``, ``files``; and
        # ``architecture`` where it is a model.
        subject = names.fill(KINDS[kind].subject)
        named = {**vars(names), "kind": kind, "subject": subject}
        if KINDS[kind].noun == "model":
            named["architecture"] = subject
        print_json({**named, "directory": str(folder), "files": files})
        return
    for file in files:
        typer.echo(str(folder / file))
    typer.echo(f"\nTry it: pip install -e {shlex.quote(str(folder))} && mszoo check {names.suite}")


def names_of(distribution: str) -> Names:
    """Derive all names from that of the distribution: ``mszoo-example`` gives ``mszoo_example``, ``example``.

    Raises:
        MszooError: it is no name of a distribution, or no Python package can be called so.
    """
    if _DISTRIBUTION.fullmatch(distribution) is None:
        hint = "Use letters, digits, '-', '_' and '.', such as mszoo-example."
        raise MszooError("mszoo new", f"{distribution!r} can't be the name of a distribution", hint)
    package = re.sub(r"[-_.]+", "_", distribution).lower()
    suite = package.removeprefix(_PREFIX)
    hint = "Choose a name that begins with a letter and is no word of Python's, such as mszoo-example."
    usable = (
        package.isidentifier() and not keyword.iskeyword(package) and package not in sys.stdlib_module_names
    )
    if not usable:
        raise MszooError("mszoo new", f"no Python package of your own can be called {package!r}", hint)
    if SUITE_NAME.fullmatch(suite) is None:
        raise MszooError("mszoo new", f"no suite can be called {suite!r}", hint)
    return Names(
        distribution, package, suite, "".join(part[:1].upper() + part[1:] for part in suite.split("_"))
    )


def check_free(names: Names, suites: Iterable[str]) -> None:
    """Refuse names that are in use here.

    Raises:
        MszooError: naming the one that is.
    """
    hint = "Choose another name."
    known = {suite for device in TABLE.values() for suite in device.suites}
    if names.suite in known | set(suites):
        raise MszooError("mszoo new", f"there is a suite {names.suite!r} already", hint)
    if installed_version(names.distribution) is not None:
        raise MszooError("mszoo new", f"a distribution {names.distribution} is installed already", hint)
    found = find_module(names.package)
    if found is not None and not _is_left_over(found):
        raise MszooError("mszoo new", f"a Python package {names.package} is installed already", hint)


def _is_left_over(found: ModuleSpec) -> bool:
    """Whether a package is a folder of caches alone, which pip leaves behind where pytest wrote one of its own."""
    return found.origin is None and not any(
        path.is_file()
        for place in locations_of(found)
        for path in Path(place).rglob("*")
        if path.parent.name != "__pycache__"
    )


def write(names: Names, folder: Path, kind: str = "decoder") -> list[str]:
    """Write the package into a folder, which is made if needed, and return the files' names in it.

    Args:
        names: of its parts.
        folder: where to.
        kind: one of ``KINDS``.

    Raises:
        MszooError: a file exists already or a class would hide another of its name, and then nothing is written; or
            the folder can't be written to.
    """
    templates = importlib.resources.files(__name__) / "template"
    own = {name: f"{kind}/{template}" for name, template in (_OF_EACH_KIND | KINDS[kind].files).items()}
    contents = {}
    for name, template in (_FILES | own).items():
        text = (templates / f"{template}.tmpl").read_text(encoding="utf-8")
        contents[names.fill(name)] = names.fill(text).replace("@NOUN@", KINDS[kind].noun)
    for name, text in contents.items():
        if name.endswith(".py"):
            _check_classes(text)
    existing = [name for name in contents if (folder / name).exists() or (folder / name).is_symlink()]
    if existing:
        hint = "Give another --directory; nothing was written."
        raise MszooError(str(folder), f"holds {', '.join(existing)} already", hint)
    made: list[Path] = []
    try:
        for name, content in contents.items():
            path = folder / name
            missing = [item for item in (path.parent, *path.parent.parents) if not item.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            made += [*reversed(missing), path]
            with path.open("x", encoding="utf-8") as file:
                file.write(content)
    except BaseException as error:
        # Nothing half is left, so that it can be tried again.
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        if not isinstance(error, (OSError, ValueError)):
            raise
        why = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)
        raise MszooError(str(folder), f"can't be written ({why})", "Give another --directory.") from error
    return sorted(contents)


def _check_classes(text: str) -> None:
    """Refuse a class with the name of what its module imports, of ``mszoo-decoder`` for one.

    Raises:
        MszooError: naming it.
    """
    tree = ast.parse(text)
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    imported = {alias.asname or alias.name for node in imports for alias in node.names}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in imported:
            what = f"the package's {node.name} would hide the one that it is derived from"
            raise MszooError("mszoo new", what, "Choose another name.")
