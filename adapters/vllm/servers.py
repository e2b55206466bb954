"""Names who serves a model, in the worker's log and to the front end."""

from __future__ import annotations

from typing import Any

import torch

from mszoo.adapters.vllm import reports
from mszoo.adapters.vllm.log import log
from mszoo.adapters.vllm.models.own import describe, path_of
from mszoo.registry import text
from mszoo.registry.catalog import Catalog
from mszoo.registry.decisions import Decision
from mszoo.registry.hookcalls import call_hook


def is_whole(module: torch.nn.Module) -> bool:
    """Say whether a module is a model as vLLM runs it, not a part of one."""
    return hasattr(module, "load_weights") and (
        hasattr(module, "compute_logits") or hasattr(module, "pooler")
    )


def announce(model: Any, catalog: Catalog, *, role: str) -> None:
    """Say at a model's first step who serves: a MindSpore model said so when it was built, vLLM's own can't.

    Args:
        model: as vLLM runs it.
        catalog: the decisions.
        role: as of :class:`mszoo.adapters.vllm.reports.Report`.
    """
    if getattr(model, "candidate", None) is None:
        architecture = _architecture(model)
        who, reason = describe(type(model)), why_not_ours(architecture, catalog)
        log.info_once("mszoo: %s is served by %s: %s", architecture, who, reason, scope="global")
        tell(model, catalog, role=role)
        notify(catalog.decide(architecture), model, catalog)


def notify(decision: Decision, model: Any, catalog: Catalog) -> None:
    """Call ``mszoo_model_loaded`` of all plugins; what one does wrong is told."""
    arguments = {"decision": decision, "model": model}
    for outcome in call_hook(catalog.discovery.manager, "mszoo_model_loaded", arguments):
        faults = [f"{trace.what}, when mszoo_model_loaded was called" for trace in outcome.traces]
        if outcome.error is not None:
            faults.append(f"mszoo_model_loaded raised {text.describe(outcome.error)}")
        for fault in faults:
            log.warning("mszoo: plugin %r: %s", outcome.plugin, fault)


def tell(model: Any, catalog: Catalog, *, role: str) -> None:
    """Tell the front end who serves in this worker.

    Args:
        model, catalog, role: as of :func:`announce`.
    """
    candidate = getattr(model, "candidate", None)
    if candidate is not None:
        suite, name, kernels = candidate.suite.name, candidate.qualified_name, model.kernels.name
    else:
        suite, name, kernels = "vllm", path_of(type(model)), "vllm"
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    reports.write(reports.Report(_architecture(model), suite, name, kernels, catalog.digest(), rank, role))


def why_not_ours(architecture: str, catalog: Catalog) -> str:
    """Say why no MindSpore model serves an architecture that one of vLLM's own serves."""
    decision = catalog.decide(architecture)
    if not decision.verdicts:
        return "no suite provides it"
    if decision.chain:
        return "a line before says why"
    return "; ".join(f"{item.candidate.qualified_name}: {item.reason}" for item in decision.verdicts)


def _architecture(model: Any) -> str:
    names = getattr(getattr(model, "config", None), "architectures", None)
    return str(names[0]) if names else type(model).__name__
