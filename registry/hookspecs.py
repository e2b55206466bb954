"""The hooks that a suite may implement; each takes and returns plain data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pluggy

from mszoo.registry.decisions import Decision
from mszoo.registry.finding import Finding
from mszoo.registry.records import LayerAdapter, ModelAdapter, OpAdapter, Suite

PROJECT = "mszoo"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def mszoo_suite() -> Suite:  # type: ignore[empty-body]
    """Say which suite the plugin's adapters belong to."""


@hookspec
def mszoo_model_adapters() -> Iterable[ModelAdapter]:  # type: ignore[empty-body]
    """Give the suite's models."""


@hookspec
def mszoo_layer_adapters() -> Iterable[LayerAdapter]:  # type: ignore[empty-body]
    """Give the suite's layer replacements."""


@hookspec
def mszoo_op_adapters() -> Iterable[OpAdapter]:  # type: ignore[empty-body]
    """Give the suite's op implementations."""


@hookspec(firstresult=True)
def mszoo_select(architecture: str, candidates: Sequence[ModelAdapter]) -> ModelAdapter | None:
    """Choose one of an architecture's available candidates, or None to leave the order as it is."""


@hookspec
def mszoo_doctor_checks(device: str) -> Iterable[Finding]:  # type: ignore[empty-body]
    """Say what on this machine or in this environment keeps the plugin's models from being served on a device."""


@hookspec
def mszoo_model_loaded(decision: Decision, model: object) -> None:
    """Take note that the model of a decision has been loaded in this process."""
