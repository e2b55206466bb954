"""Says, at the first step of each model of this process, who serves it, and which registrations have no effect.

vLLM calls nobody when a model is loaded, so torch's own hook on module calls is used: it is set where adapters
were installed, it is away while a model runs (vLLM may be compiling), and it takes itself away for good at the
first step on real tokens.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from mszoo.adapters.vllm import servers
from mszoo.adapters.vllm.log import log
from mszoo.adapters.vllm.models import dry_step, names
from mszoo.registry.catalog import Catalog

if TYPE_CHECKING:
    from mszoo.adapters.vllm.layers.layer_class import Swap


def watch(catalog: Catalog, swaps: list[Swap], registered: dict[str, type]) -> None:
    """Report on each model at its first step, which is one of vLLM's memory profiling.

    Args:
        catalog: the decisions.
        swaps: the layers that were replaced.
        registered: the classes given to vLLM's model registry, by architecture.
    """
    _Watch(catalog, swaps, registered).go_on()


class _Watch:
    def __init__(self, catalog: Catalog, swaps: list[Swap], registered: dict[str, type]) -> None:
        self._catalog, self._swaps, self._registered = catalog, swaps, registered
        self._seen: set[int] = set()
        self._pending: Any = None

    def go_on(self) -> None:
        self._pending = register_module_forward_pre_hook(self._before)

    def _before(self, model: torch.nn.Module, arguments: Any) -> None:
        del arguments
        if torch.compiler.is_compiling() or dry_step.is_running():
            return
        # Imported here: registration runs in every process, and most of them never take a step.
        from mszoo.adapters.vllm.seam import get_forward_context, is_forward_context_available

        if not is_forward_context_available() or not servers.is_whole(model):
            return  # another module than vLLM's model
        self._pending.remove()
        profiling = get_forward_context().attn_metadata is None
        is_first, is_new = not self._seen, id(model) not in self._seen
        self._seen.add(id(model))
        if is_first:
            for problem in names.replaced(self._registered):
                log.warning_once("mszoo: %s", problem, scope="global")
        if is_new:
            # vLLM profiles the target first, and then what drafts for it.
            servers.announce(model, self._catalog, role="target" if is_first else "draft")

        def after(*_: Any) -> None:
            step.remove()
            if is_first and self._swaps:
                _report(model, self._swaps)
            if profiling:  # a draft model may follow
                self.go_on()

        step = model.register_forward_hook(after)


def _report(model: torch.nn.Module, swaps: list[Swap]) -> None:
    from mszoo.adapters.vllm.layers.layer_class import MindSporeLayer

    counts = Counter(module.swap.name for module in model.modules() if isinstance(module, MindSporeLayer))
    switched_off = [swap for swap in swaps if swap.computed_by and not swap.calls and not swap.is_enabled]
    custom_ops = next((swap.custom_ops for swap in switched_off), ())
    cure = custom_ops_cure(custom_ops, [swap.name for swap in switched_off])
    for swap in swaps:
        count = counts[swap.name]
        if swap.calls:
            who = ", ".join(
                f"{name} ({item.adapter.implementation}, {item.plugin.source})"
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
