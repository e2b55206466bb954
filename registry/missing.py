"""Records that would never run or fail when they do: code that isn't there, and layers that vLLM lacks."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Collection, Iterator

from mszoo.registry import vllm_layers
from mszoo.registry.catalog import Catalog
from mszoo.registry.decisions import Candidate, Decision
from mszoo.registry.errors import Problem
from mszoo.registry.objects import missing_object

_VLLM = "vllm:"


def missing_code(catalog: Catalog, subjects: Collection[str] | None = None) -> list[Problem]:
    """Return what is wrong with the records that could be chosen here; nothing is imported.

    Args:
        catalog: the decisions about models, layers and ops.
        subjects: architectures, layer targets and ops to look at; None for all.
    """
    find = functools.cache(missing_object)
    models, layers, ops = catalog.decisions(), catalog.layer_decisions(), catalog.op_decisions()
    found: list[Problem] = []
    for decision in (*models.values(), *layers.values(), *ops.values()):
        if subjects is not None and decision.subject not in subjects:
            continue
        for candidate in decision.chain:
            code = candidate.adapter.implementation
            why = find(code)
            if why is not None:
                found.append(_problem(catalog, candidate, f"names {code}, and {why}", ""))
        if decision.subject in layers:
            found += _no_layer(catalog, decision)
    return found


def _no_layer(catalog: Catalog, decision: Decision) -> Iterator[Problem]:
    """Give the problem of a target that no class of vLLM has; where vLLM isn't installed nobody knows."""
    name = decision.subject.removeprefix(_VLLM)
    if name == decision.subject or not decision.chain:
        return
    if not vllm_layers.names() or vllm_layers.modules_of(name):
        return
    nearest = vllm_layers.nearest_name(name)
    meant = f"Did you mean {_VLLM}{nearest}? " if nearest else ""
    yield _problem(
        catalog, decision.chain[0], f"would never run: vLLM has no replaceable layer {name!r}", meant
    )


def _problem(catalog: Catalog, candidate: Candidate, what: str, meant: str) -> Problem:
    plugin = candidate.plugin
    without = shlex.quote(",".join(sorted({*catalog.settings.disabled, plugin.name})))
    hint = f"{meant}Fix or upgrade {plugin.distribution}, or set MSZOO_DISABLE={without}."
    return Problem(f"{candidate.qualified_name} of {plugin.source}", what, hint, plugin.name)
