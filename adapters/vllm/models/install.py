"""Gives vLLM's model registry a class for every architecture that an available adapter serves."""

from __future__ import annotations

from mszoo.adapters.vllm.models.classes import wrapper_class
from mszoo.adapters.vllm.models.names import overridden, without_processor
from mszoo.adapters.vllm.seam import ModelRegistry
from mszoo.registry.catalog import Catalog, network_of
from mszoo.registry.errors import Problem


def register_models(catalog: Catalog) -> tuple[dict[str, type], list[Problem]]:
    """Register a class for every name under which the catalog serves an architecture.

    Returns:
        The classes by plain architecture, and the models of other plugins that they take over.
    """
    registered: dict[str, type] = {}
    problems: list[Problem] = []
    for architecture, decision in catalog.decisions().items():
        vllm_entry = ModelRegistry.models.get(architecture)
        if decision.chain and decision.chain[0].adapter.modalities and vllm_entry is None:
            problems.append(without_processor(decision.chain[0]))
            continue
        if decision.chain:
            problem = overridden(architecture, vllm_entry)
            problems += [] if problem is None else [problem]
            registered[architecture] = wrapper_class(catalog, decision, vllm_entry)
            ModelRegistry.register_model(architecture, registered[architecture])
        for candidate in decision.chain:
            pinned = catalog.decide(candidate.qualified_name)
            ModelRegistry.register_model(
                candidate.qualified_name, wrapper_class(catalog, pinned, None, vllm_entry)
            )
    for name, entry in list(ModelRegistry.models.items()):
        # Embedding models whose checkpoints name the network, such as MistralModel, for which vLLM has its decoder.
        if network_of(name) in registered and getattr(entry, "class_name", "").endswith("ForCausalLM"):
            registered[name] = wrapper_class(catalog, catalog.decide(name), entry)
            ModelRegistry.register_model(name, registered[name])
    return registered, problems
