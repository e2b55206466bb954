"""Reports architectures that another plugin gives to vLLM's model registry as well as mszoo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mszoo.adapters.vllm.other_plugins import owner
from mszoo.adapters.vllm.seam import ModelRegistry
from mszoo.registry.decisions import Candidate
from mszoo.registry.errors import Problem


def overridden(architecture: str, entry: Any) -> Problem | None:
    """Say whose model mszoo's adapter replaces; None if it is vLLM's own or nobody's.

    Args:
        architecture: its name.
        entry: what vLLM's registry holds for it before mszoo registers, or None.
    """
    module = _module(entry)
    if module is None or module.partition(".")[0] in ("vllm", "mszoo"):
        return None
    what = f"was registered by {owner(module)} ({module}); mszoo's adapter serves it instead"
    hint = "It is used if every adapter refuses. Set MSZOO_DISABLE to the adapter's plugin to use it always."
    return Problem(architecture, what, hint)


def without_processor(candidate: Candidate) -> Problem:
    """Say that a model of several modalities can't be served: nobody makes its inputs."""
    modalities = " and ".join(candidate.adapter.modalities)
    what = (
        f"reads {modalities}, and this vLLM has no model of the architecture, whose processor it would take"
    )
    return Problem(candidate.qualified_name, what, "Serve it with a vLLM that has one", candidate.plugin.name)


def replaced(registered: Mapping[str, type]) -> list[Problem]:
    """Return the architectures that another plugin registered after mszoo did: it serves them.

    Args:
        registered: the classes that mszoo registered, by architecture.
    """
    problems = []
    for architecture, model_class in registered.items():
        entry = ModelRegistry.models.get(architecture)
        if getattr(entry, "model_cls", None) is model_class:
            continue
        module = _module(entry) or "unknown"
        what = f"is served by {owner(module)} ({module}), which registered it after mszoo"
        hint = f"Leave that plugin out of VLLM_PLUGINS, or ask for mszoo's by name: {_pinned(model_class)}."
        problems.append(Problem(architecture, what, hint))
    return problems


def _pinned(model_class: Any) -> str:
    name = model_class.decision.chain[0].qualified_name
    return f"""--hf-overrides '{{"architectures": ["{name}"]}}'"""


def _module(entry: Any) -> str | None:
    """Return the module of a registry entry's class: of a lazy one by name, of another by its class."""
    module = getattr(entry, "module_name", None) or getattr(
        getattr(entry, "model_cls", None), "__module__", None
    )
    return str(module) if module else None
