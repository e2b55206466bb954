"""Looks, at the first step of this process's model, for registrations that have no effect there, and says so.

vLLM calls nobody when a model is loaded, so torch's own hook on module calls is used: it is set where adapters were
installed, and it takes itself away at the first call.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from mszoo.registry.bridge import model_names
from mszoo.registry.bridge.log import log

if TYPE_CHECKING:
    from mszoo.registry.bridge.layer_class import Swap


def watch(swaps: list[Swap], registered: dict[str, type]) -> None:
    """Report at the end of the model's first step, which is vLLM's memory profiling.

    Args:
        swaps: the layers that were replaced.
        registered: the classes given to vLLM's model registry, by architecture.
    """
    if not swaps and not registered:
        return

    def before(model: torch.nn.Module, arguments: Any) -> None:
        if torch.compiler.is_compiling():
            return
        # Imported here: registration runs in every process, and most of them never take a step.
        from vllm.forward_context import is_forward_context_available

        if not is_forward_context_available():
            return  # another module than vLLM's model
        pending.remove()
        for problem in model_names.replaced(registered):
            log.warning_once("mszoo: %s", problem, scope="global")
        if not swaps:
            return

        def after(*_: Any) -> None:
            first_step.remove()
            _report(model, swaps)

        first_step = model.register_forward_hook(after)

    pending = register_module_forward_pre_hook(before)


def _report(model: torch.nn.Module, swaps: list[Swap]) -> None:
    from mszoo.registry.bridge.layer_class import MindSporeLayer

    counts = Counter(module.swap.name for module in model.modules() if isinstance(module, MindSporeLayer))
    switched_off = [swap for swap in swaps if swap.computed_by and not swap.calls and not swap.is_enabled]
    custom_ops = next((swap.custom_ops for swap in switched_off), ())
    cure = custom_ops_cure(custom_ops, [swap.name for swap in switched_off])
    for swap in swaps:
        count = counts[swap.name]
        if swap.calls:
            who = ", ".join(
                f"{name} ({item.adapter.implementation}, {item.plugin.distribution} {item.plugin.version})"
                for name, item in swap.computed_by.items()
            )
            log.info_once("mszoo: %s is computed by %s: %d layers", swap.target, who, count, scope="global")
        elif not count:
            kinds = sorted({type(module).__name__ for module in model.modules()})
            log.warning_once(
                "mszoo: %s is registered and never runs: %s has no such layer. It has: %s",
                swap.target,
                type(model).__name__,
                ", ".join(kinds),
                scope="global",
            )
        elif swap in switched_off:
            log.warning_once(
                "mszoo: %s: %d layers were replaced, and vLLM runs its own torch code in them. Serve with %s, or "
                "with --enforce-eager",
                swap.target,
                count,
                cure,
                scope="global",
            )
        elif swap.computed_by:
            plugins = ",".join(sorted({item.plugin.name for item in swap.computed_by.values()}))
            log.warning_once(
                "mszoo: %s: %d layers were replaced, and none was called: %s doesn't use them, or vLLM runs its "
                "own torch code in them whatever custom_ops says. MSZOO_DISABLE=%s leaves the adapter out",
                swap.target,
                count,
                type(model).__name__,
                plugins,
                scope="global",
            )


def custom_ops_cure(custom_ops: Iterable[str], names: Iterable[str]) -> str:
    """Return the option of ``vllm serve`` that lets these layers run their device code and changes nothing else."""
    names = list(names)
    kept = [item for item in custom_ops if item.lstrip("+-") not in names]
    value = json.dumps({"custom_ops": [*kept, *(f"+{name}" for name in names)]})
    return f"--compilation-config '{value}'"
