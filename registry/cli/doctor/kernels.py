"""Judges whether mszoo's compiled kernels belong to the installed torch."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from mszoo.registry.cli.doctor.environment import Environment
from mszoo.registry.finding import Finding
from mszoo.registry.installer import reinstall


def library_name(torch: str) -> str:
    """Return the file name of the compiled kernels for a version of torch; setup.py gives them this name."""
    return f"cpu_ops.torch-{torch.partition('+')[0]}.so"


def check_kernels(facts: Environment) -> Iterator[Finding]:
    """Find out whether the compiled kernels can be loaded; without them mszoo serves, and slower."""
    torch = facts.versions.get("torch")
    if facts.device != "cpu" or torch is None:
        return
    libraries = facts.kernel_libraries
    if libraries is None:
        command = reinstall()
        hint = f"Install it anew: {shlex.join(command)}"
        yield Finding("problem", "mszoo", "lacks its package mszoo.kernels", hint, command)
    elif library_name(torch) not in libraries:
        built = [name.removeprefix("cpu_ops.torch-").removesuffix(".so") for name in libraries]
        what = f"has no compiled kernels for torch {torch}, and is slower without them"
        if built:
            what += f" (they were compiled for torch {', '.join(built)})"
        command = reinstall()
        if facts.compiler:
            hint = f"Compile them: mszoo doctor --fix, or {shlex.join(command)}"
            yield Finding("warning", "mszoo", what, hint, command)
        else:
            hint = f"Install a C++ compiler (apt-get install g++), then compile them: {shlex.join(command)}"
            yield Finding("warning", "mszoo", what, hint)
