"""``mszoo lock``: writes the lock file of what is decided here, or checks one."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from mszoo.registry.catalog import Catalog
from mszoo.registry.cli.report import (
    DeviceOption,
    JsonOption,
    chosen_device,
    console,
    heading,
    print_footing,
    print_json,
    print_problems,
    problems_json,
)
from mszoo.registry.errors import LockError, MszooError
from mszoo.registry.files import check_writable
from mszoo.registry.load import load_catalog
from mszoo.registry.lock import Lock, read_lock
from mszoo.registry.lock_check import make_lock
from mszoo.registry.lock_plugins import unhashable

_DEFAULT = "mszoo.lock"


def lock(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help=f"The lock file. Default: MSZOO_LOCK, else {_DEFAULT}."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; compare FILE with what is here.")
    ] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Write nothing; say what FILE holds to, and what it leaves open."),
    ] = False,
    as_json: JsonOption = False,
    device: DeviceOption = None,
) -> None:
    """Write a lock file: the plugins, their versions, the hashes of their code, and all decisions.

    With MSZOO_LOCK=FILE, vLLM loads the listed plugins only, and refuses to start if anything differs.
    Exits with 1 if --check finds a difference, or if a plugin or setting has a problem.
    """
    path = _path(file)
    if explain:
        from mszoo.registry.cli.lock.explain import explain_json, print_explanation

        if check:
            raise MszooError(
                "mszoo lock", "--check and --explain are two questions", "Ask one after the other."
            )
        report = explain_json(read_lock(path), path)
        print_json(report) if as_json else print_explanation(report)
        return
    if not check:
        check_writable(path, LockError)
        # A lock in force must not stand in the way of the next one.
        environ = {name: value for name, value in os.environ.items() if name != "MSZOO_LOCK"}
        catalog = load_catalog(environ, chosen_device(device))
        if catalog.settings.plugins:
            what = "names plugins that are not packaged, and a lock holds to distributions"
            raise LockError("MSZOO_PLUGINS", what, "Unset it, or package them: mszoo new.")
        made = make_lock(catalog)
        made.write(path)
        catalog.differences = tuple(unhashable(made.code))
        _report(catalog, path, made, as_json)
        raise typer.Exit(1 if catalog.problems else 0)
    catalog = load_catalog({**os.environ, "MSZOO_LOCK": str(path)}, chosen_device(device))
    _report(catalog, path, None, as_json)
    raise typer.Exit(1 if catalog.problems else 0)


def lock_json(catalog: Catalog, path: Path, made: Lock | None) -> dict[str, Any]:
    """Return the report that ``mszoo lock --json`` prints.

    Keys: ``mszoo`` (version), ``device``, ``digest``, ``disabled`` (plugin names), ``lock``, ``file``, ``written``
    (the content of the file; null with ``--check``), ``differences``, ``problems``.
    ``lock`` is null, or with ``--check`` has ``file`` and ``unlisted`` (names of plugins that are not loaded).
    Differences and problems have ``who``, ``what``, ``mend`` and ``plugin`` (null where no plugin is at fault);
    differences are problems, too. Where a lock is written, they are what it can't hold to.
    """
    return {
        **heading(catalog),
        "file": str(path),
        "written": made.to_json() if made is not None else None,
        "differences": problems_json(catalog.differences),
        "problems": problems_json(catalog.problems),
    }


def _path(file: Path | None) -> Path:
    named = file or os.environ.get("MSZOO_LOCK", "").strip() or _DEFAULT
    path = Path(os.path.expanduser(named)).absolute()
    if path.is_dir():
        raise MszooError(
            str(path), "is a folder", f"Name a file in it: mszoo lock {shlex.quote(str(path / _DEFAULT))}."
        )
    return path


def _report(catalog: Catalog, path: Path, made: Lock | None, as_json: bool) -> None:
    if as_json:
        print_json(lock_json(catalog, path, made))
        return
    out = console()
    if made is not None:
        counts = {
            "plugin": len(made.plugins),
            "architecture": len(made.models),
            "layer": len(made.layers),
            "op": len(made.ops),
        }
        text = ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items() if count)
        out.print(f"{path}: locked {text or 'nothing'}")
        out.print(f"Enforce it with MSZOO_LOCK={shlex.quote(str(path))}", soft_wrap=True)
    elif not catalog.differences:
        out.print(f"{path}: all is as locked")
    else:
        out.print(f"{path}: not as locked")
    print_footing(out, catalog)
    print_problems(out, catalog.problems)
