"""Installs the catalog's decisions into vLLM's model registry, once per process."""

from __future__ import annotations

import multiprocessing
from importlib.metadata import version

from vllm.model_executor.models.registry import ModelRegistry

from mszoo.registry.bridge.device import device_name, force_spawn
from mszoo.registry.bridge.log import log
from mszoo.registry.catalog import Catalog, load_catalog

_installed: list[Catalog] = []


def install() -> Catalog | None:
    """Register every architecture that has an available adapter, under its plain and its qualified names.

    Real classes are registered, so vLLM inspects them in this process and starts no other.

    Returns:
        The catalog, or None on a platform that MindSpore models don't run on. A second call changes nothing.

    Raises:
        SettingsError: an environment variable of mszoo holds a value that it doesn't allow.
    """
    if _installed:
        return _installed[0]
    device = device_name()
    if device is None:
        log.info("mszoo: nothing installed: MindSpore models run on cpu and npu")
        return None
    catalog = load_catalog(device=device)
    force_spawn()
    register_models(catalog)
    _report(catalog)
    _installed.append(catalog)
    return catalog


def register_models(catalog: Catalog) -> None:
    """Register a class for every name under which the catalog serves an architecture."""
    from mszoo.registry.bridge.wrapper import wrapper_class

    for architecture, decision in catalog.decisions().items():
        vllm_entry = ModelRegistry.models.get(architecture)
        if decision.chain:
            ModelRegistry.register_model(architecture, wrapper_class(catalog, decision, vllm_entry))
        for candidate in decision.chain:
            pinned = catalog.decide(candidate.qualified_name)
            ModelRegistry.register_model(candidate.qualified_name, wrapper_class(catalog, pinned, None))


def _report(catalog: Catalog) -> None:
    # Every process of a server comes here; people need to read it once.
    first = multiprocessing.parent_process() is None
    say = log.warning if first else log.debug
    for problem in catalog.problems:
        say("mszoo: %s", problem)
    served = [name for name, decision in catalog.decisions().items() if decision.chain]
    log.info(
        "mszoo %s: %d architectures on %s (%s), decision %s; see: mszoo list",
        version("mszoo"),
        len(served),
        catalog.device,
        ", ".join(served[:6]) + (", ..." if len(served) > 6 else ""),
        catalog.digest(),
    )
