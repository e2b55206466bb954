"""Judges the operator's MSZOO_* variables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mszoo.registry.cli.doctor.environment import Environment
from mszoo.registry.devices import device_of
from mszoo.registry.errors import SettingsError
from mszoo.registry.finding import Finding
from mszoo.registry.settings import KERNELS, VARIABLES, Settings, nearest_variable, no_kernel_set


def check_settings(facts: Environment, kernel_sets: Sequence[str] = ()) -> Iterator[Finding]:
    """Find variables that mszoo refuses, doesn't know, or that switch it off.

    Args:
        facts: about the environment.
        kernel_sets: those of suites.
    """
    environ = facts.environ
    for name in VARIABLES:
        if name not in environ:
            continue
        try:
            settings = Settings.from_environ({name: environ[name]})
            if settings.kernels not in (*KERNELS, *kernel_sets):
                raise no_kernel_set(settings.kernels, kernel_sets)
        except SettingsError as error:
            # vLLM then serves its own models only.
            yield Finding("problem", error.who, error.what, f"{error.hint} Or: unset {name}")
            continue
        if settings.disabled_all:
            what = "switches mszoo off: vLLM serves its own models"
            yield Finding(
                "warning", f"{name}={environ[name]}", what, f"To serve MindSpore models: unset {name}"
            )
        elif (runs_on := device_of(settings.kernels) or facts.device) != facts.device:
            what = f"names kernels for {runs_on.upper()}, and this is {facts.device}: every model is refused"
            yield Finding("problem", f"{name}={environ[name]}", what, f"Let mszoo choose: unset {name}")
    for name in sorted(environ):
        if name.startswith("MSZOO_") and name not in VARIABLES:
            nearest = nearest_variable(name)
            hint = f"Did you mean {nearest}? " if nearest else f"mszoo reads {', '.join(VARIABLES)}. "
            yield Finding(
                "warning", name, "is not a variable of mszoo, and does nothing", f"{hint}unset {name}"
            )
