"""Installs LayerAdapters of ``vllm:<LayerClass>`` through vLLM's own registration of out-of-tree layers.

vLLM's own torch models then run a MindSpore layer. Registration imports vLLM's class, no suite and no MindSpore:
the implementation is imported where vLLM instantiates the layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mszoo.adapters.vllm import other_plugins
from mszoo.registry import vllm_layers
from mszoo.registry.catalog import Catalog
from mszoo.registry.decisions import Decision
from mszoo.registry.errors import Problem
from mszoo.registry.objects import load_object

if TYPE_CHECKING:
    from mszoo.adapters.vllm.layers.layer_class import Swap

_PREFIX = "vllm:"


@dataclass(frozen=True)
class Plan:
    """What becomes of one decision about a vLLM layer.

    Args:
        decision: its subject is the target; at least one candidate.
        module: the module of vLLM's class; None if the layer can't be replaced.
        obstacle: why it can't.
        left_to: the other plugin that has the name or takes it later; None if nobody does.
    """

    decision: Decision
    module: str | None = None
    obstacle: Problem | None = None
    left_to: str | None = None

    @property
    def name(self) -> str:
        """The name of vLLM's class."""
        return self.decision.subject.removeprefix(_PREFIX)


def plan(catalog: Catalog, taken: dict[str, str]) -> list[Plan]:
    """Say which layers are replaced and why the others are not; imports nothing of vLLM.

    Args:
        catalog: the decisions.
        taken: the names of other plugins and who they are.
    """
    return [
        _plan(decision, taken)
        for target, decision in catalog.layer_decisions().items()
        if target.startswith(_PREFIX) and decision.chain
    ]


def install_layers(catalog: Catalog) -> tuple[list[Swap], list[Problem]]:
    """Register a class for every vLLM layer that has an available adapter and is free.

    Returns:
        The layers that were replaced, and what people need to know about the others.
    """
    targets = [target for target in catalog.layer_decisions() if target.startswith(_PREFIX)]
    if not targets:
        return [], []
    from mszoo.adapters.vllm.layers.layer_class import Swap, layer_class
    from mszoo.adapters.vllm.seam import CustomOp, current_platform, op_registry_oot

    taken = other_plugins.names_to_come(type(current_platform).__module__, catalog.device)
    taken |= {name: other_plugins.owner(layer.__module__) for name, layer in op_registry_oot.items()}
    swaps: list[Swap] = []
    problems: list[Problem] = []
    # Layers exchange memory with torch, which is verified on CPU.
    on_cpu = catalog.device == "cpu"
    for item in plan(catalog, taken):
        if item.obstacle is not None or item.module is None:
            problems += [item.obstacle] if item.obstacle else []
            continue
        if not on_cpu:
            what = f"layer {item.name} is replaced on cpu only, and this is {catalog.device}"
            problems.append(_problem(item.decision, what, "Serve a MindSpore model instead."))
            continue
        try:
            vllm_layer = load_object(f"{item.module}:{item.name}")
        except Exception as error:  # vLLM's modules for other devices need their packages
            what = f"vLLM's {item.module} can't be imported here ({type(error).__name__}: {error})"
            problems.append(_problem(item.decision, what, "Leave the adapter out on this device."))
            continue
        swap = Swap(item.decision.subject, catalog)
        CustomOp.register_oot(layer_class(vllm_layer, swap), name=item.name)
        swaps.append(swap)
    return swaps, problems


def _plan(decision: Decision, taken: dict[str, str]) -> Plan:
    name = decision.subject.removeprefix(_PREFIX)
    modules = vllm_layers.modules_of(name)
    if not modules:
        nearest = vllm_layers.nearest_name(name)
        hint = f"Did you mean {_PREFIX}{nearest}?" if nearest else "See vLLM's subclasses of CustomOp."
        what = f"vLLM has no replaceable layer {name!r}: {_code(decision)} would never run"
        return Plan(decision, obstacle=_problem(decision, what, hint))
    if len(modules) > 1:
        what = f"vLLM has several layers {name!r} ({', '.join(modules)}), and one name replaces all of them"
        return Plan(decision, obstacle=_problem(decision, what, "Replace another layer."))
    if name in taken:
        what = f"layer {name} is left to {taken[name]}, which registers it: {_code(decision)} doesn't run"
        hint = f"Uninstall {taken[name].split()[0]} if it is to run; MindSpore models are not affected."
        return Plan(decision, obstacle=_problem(decision, what, hint), left_to=taken[name])
    return Plan(decision, modules[0])


def _code(decision: Decision) -> str:
    return str(decision.chain[0].adapter.implementation)


def _problem(decision: Decision, what: str, hint: str) -> Problem:
    plugin = decision.chain[0].plugin
    return Problem(str(plugin), what, hint, plugin.name)
