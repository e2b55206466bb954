"""Judges what vLLM will load: VLLM_PLUGINS against the installed entry points, and how its workers start."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterator

from mszoo.registry.cli.doctor.environment import Environment
from mszoo.registry.finding import Finding
from mszoo.registry.installer import reinstall

_OURS = "mszoo"
_FILTER = "VLLM_PLUGINS"
_START = "VLLM_WORKER_MULTIPROC_METHOD"


def check_vllm_plugins(facts: Environment) -> Iterator[Finding]:
    """Find out whether vLLM's processes will load mszoo and the platform."""
    if _OURS not in facts.general_plugins:
        what = "has no entry point in vllm.general_plugins, so vLLM never asks it"
        command = reinstall()
        yield Finding("problem", _OURS, what, f"Install it anew: {shlex.join(command)}", command)
    if len(facts.platform_plugins) > 1:
        what = f"has several platforms to choose from: {', '.join(facts.platform_plugins)}"
        hint = f"If more than one suits this machine, vLLM refuses to start; name one: export {_FILTER}="
        yield Finding("warning", "vLLM", what, f"{hint}{facts.platform_plugins[0]},{_OURS}")
    if _FILTER in facts.environ:
        yield from _filter(facts, facts.environ[_FILTER])


def _filter(facts: Environment, value: str) -> Iterator[Finding]:
    # vLLM compares the pieces between the commas as they are: " mszoo" is not mszoo.
    exact = value.split(",")
    meant = [name.strip() for name in exact if name.strip()]
    must = [*([] if set(facts.platform_plugins) & set(meant) else facts.platform_plugins), _OURS]
    right = ",".join(dict.fromkeys([*meant, *must]))
    cure = f"export {_FILTER}={right}"
    who = f"{_FILTER}={value!r}"
    spaced = [name for name in exact if name != name.strip()]
    if spaced:
        what = f"vLLM doesn't strip blanks, so {', '.join(map(repr, spaced))} names no plugin"
        yield Finding("problem", who, what, f"Remove the blanks: {cure}")
    missing = [name for name in must if name not in meant]
    if missing:
        platform = f"; without {missing[0]} vLLM takes another platform" if missing[0] != _OURS else ""
        what = f"leaves out {' and '.join(missing)}, so vLLM doesn't load it{platform}"
        yield Finding("problem", who, what, f"Name all: {cure}")
    known = {*facts.platform_plugins, *facts.general_plugins, *facts.other_plugins}
    for name in meant:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {nearest[0]}? " if nearest else ""
            fixed = ",".join(nearest[0] if item == name and nearest else item for item in right.split(","))
            fixed = ",".join(dict.fromkeys(item for item in fixed.split(",") if item != name))
            what = f"names {name!r}, which no installed package declares"
            yield Finding("warning", who, what, f"{hint}Correct it: export {_FILTER}={fixed}")


def check_fork(facts: Environment) -> Iterator[Finding]:
    """Find out whether workers may be forked: MindSpore doesn't survive a fork once it has run."""
    method = facts.environ.get(_START)
    cure = f"export {_START}=spawn"
    if method not in (None, "fork", "spawn"):
        what = "is not a start method of vLLM's, which refuses to start"
        yield Finding("problem", f"{_START}={method}", what, f"Use spawn: {cure}")
    elif not facts.platform_plugins:
        # vLLM's own platform for CPU spawns, whatever the variable says.
        if method == "fork":
            what = "is overruled by vLLM's platform for CPU, which spawns"
            yield Finding("info", f"{_START}=fork", what, f"Nothing is needed; clearer is: unset {_START}")
    elif method == "fork":
        what = f"lets the platform {facts.platform_plugins[0]} fork its workers; a fork hangs once MindSpore has "
        what += "run in the parent, and mszoo overrules it only where MindSpore is imported before"
        yield Finding("warning", f"{_START}=fork", what, f"Let them spawn: {cure}")
    elif method is None:
        what = (
            f"is not set, and the platform {facts.platform_plugins[0]} may fork its workers; mszoo sets it "
        )
        what += "where MindSpore is in use before"
        yield Finding("info", _START, what, f"To be safe with other code: {cure}")
