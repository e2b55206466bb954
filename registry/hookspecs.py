"""The hooks that a suite may implement; each takes and returns plain data.

An implementation names those of a hook's arguments that it wants. A hook or argument that is to go is marked with
pluggy's ``warn_on_impl`` or ``warn_on_impl_args``: ``mszoo list`` then names the plugins that use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pluggy

from mszoo.registry.decisions import Decision
from mszoo.registry.finding import Finding
from mszoo.registry.records import LayerAdapter, ModelAdapter, OpAdapter, Suite

PROJECT = "mszoo"
#: Which hooks and arguments there are; one more with each change of them.
HOOK_VERSION = 2
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
def mszoo_select(
    architecture: str,
    candidates: Sequence[ModelAdapter],
    suites: Sequence[str],
    config: Mapping[str, Any] | None,
) -> ModelAdapter | None:
    """Choose one of an architecture's available candidates, or None to leave the order as it is.

    It is asked when plugins are loaded, for every architecture. An implementation that names ``config`` is asked
    again for each model, with its config, unless a lock holds the decision or a suite was asked for by name.

    Args:
        architecture: as config.json names it.
        candidates: in order, the first would serve.
        suites: the name of each candidate's suite.
        config: the fields of config.json as Transformers reads them; None where no model is at hand.
    """


@hookspec
def mszoo_doctor_checks(device: str) -> Iterable[Finding]:  # type: ignore[empty-body]
    """Say what on this machine or in this environment keeps the plugin's models from being served on a device."""


@hookspec
def mszoo_commands() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Give commands of ``mszoo``: by name, the function or ``typer.Typer`` that is one, as ``module:object``."""


@hookspec
def mszoo_model_loaded(decision: Decision, model: object) -> None:
    """Take note, in a worker, that a model has been loaded: with its weights; of vLLM's own, at its first step.

    Args:
        decision: about its architecture; without verdicts where no suite provides that.
        model: the torch module that vLLM runs. Its ``candidate`` says who serves; vLLM's own models have none.
    """
