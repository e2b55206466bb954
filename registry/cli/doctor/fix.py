"""``mszoo doctor --fix``: shows the commands that mend what was found, asks, and runs them."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence

import typer

from mszoo.registry.errors import sentence
from mszoo.registry.finding import Finding


def fix(findings: Sequence[Finding], device: str, *, yes: bool) -> int:
    """Run the commands of all findings that have one, each once, and examine anew; returns the exit status.

    Args:
        findings: the worst first, which is the order that they are mended in.
        device: what was examined for.
        yes: don't ask.
    """
    fixes: dict[tuple[str, ...], list[str]] = {}
    for finding in findings:
        if finding.fix:
            fixes.setdefault(finding.fix, []).append(finding.who)
    if not fixes:
        typer.echo("Nothing here is mended by a command of mszoo doctor --fix.")
        return 1 if any(finding.level == "problem" for finding in findings) else 0
    typer.echo("These commands mend what was found:")
    for command, who in fixes.items():
        typer.echo(f"  {shlex.join(command)}    # {', '.join(who)}")
    if not yes and not typer.confirm("Run them?"):
        typer.echo("Nothing was changed.")
        return 1
    for command in fixes:
        try:
            status = subprocess.run(command, check=False).returncode
        except OSError as error:
            what = f"can't be run ({error.strerror})"
            typer.echo(sentence(shlex.join(command), what, "Is it still there?"), err=True)
            return 1
        if status:
            what = f"ended with exit status {status}; the commands after it were not run"
            typer.echo(sentence(shlex.join(command), what, "Its output above says why."), err=True)
            return 1
    # In a process of its own: this one has seen the environment as it was.
    anew = [sys.executable, "-c", "from mszoo.registry.cli import main; main()", "doctor", "--device", device]
    return subprocess.run(anew, check=False).returncode
