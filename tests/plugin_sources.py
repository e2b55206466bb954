"""Sources of plugins for the tests, and what mszoo must say about a bad one."""

from __future__ import annotations

from dataclasses import dataclass, field

HEADER = (
    "from mszoo.registry import Capability, LayerAdapter, ModelAdapter, OpAdapter, Suite, hookimpl\n"
    "from mszoo.registry.load import load_catalog\n"
)


def hook(body: str, name: str = "mszoo_model_adapters()") -> str:
    return f"@hookimpl\ndef {name}:\n    {body}\n"


def models(*architectures: str, **fields: str) -> str:
    """Source of a hook that gives good adapters; `fields` are further arguments as source."""
    extra = "".join(f", {name}={value}" for name, value in fields.items())
    items = ", ".join(f"ModelAdapter('{name}', 'good_model:Model'{extra})" for name in architectures)
    return hook(f"return [{items}]")


@dataclass(frozen=True)
class Bad:
    """A bad plugin.

    Args:
        source: of its module, after HEADER; bytes are written as they are; None for no module.
        problem: what its one problem begins with, after its name; None if discovery has nothing against it.
        finding: what the doctor's one finding about it begins with, where discovery finds none.
        keeps: architectures that it serves all the same.
        value: its entry point's value; None for the name of its module.
        files: further files, by path.
    """

    source: str | bytes | None
    problem: str | None = None
    finding: tuple[str, str] | None = None
    keeps: tuple[str, ...] = ()
    value: str | None = None
    files: dict[str, str] = field(default_factory=dict)


def twisted(line: str) -> str:
    """Source of a module that does something at import and is good otherwise."""
    return f"import os, sys, threading\n{line}\n"
