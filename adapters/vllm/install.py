"""Installs the catalog's decisions into vLLM, once per process: models, layers and ops."""

from __future__ import annotations

import multiprocessing
from importlib.metadata import version
from typing import TYPE_CHECKING

from mszoo.adapters.vllm import reports
from mszoo.adapters.vllm.device import carry_settings, device_name, force_spawn
from mszoo.adapters.vllm.first_step import watch
from mszoo.adapters.vllm.log import log
from mszoo.adapters.vllm.models.install import register_models
from mszoo.adapters.vllm.supported import machine_faults
from mszoo.registry.catalog import Catalog
from mszoo.registry.errors import LockError, Problem
from mszoo.registry.load import load_catalog
from mszoo.registry.settings import Settings

# Every vLLM process comes here and most have no lock and no adapters of layers and ops: what these need is imported
# where they are.
if TYPE_CHECKING:
    from mszoo.adapters.vllm.layers.layer_class import Swap

_installed: list[Catalog] = []


def install() -> Catalog | None:
    """Register every architecture that has an available adapter, under its plain and its qualified names.

    Real classes are registered, so vLLM inspects them in this process and starts no other.

    Returns:
        The catalog, or None on a platform that MindSpore models don't run on. A second call changes nothing.

    Raises:
        SettingsError: an environment variable of mszoo holds a value that it doesn't allow.
        LockError: something differs from the lock in force.
    """
    if _installed:
        return _installed[0]
    device = device_name()
    if device is None:
        if Settings.from_environ().lock is not None:
            what = "decisions are locked, and on this platform MindSpore models can't run"
            raise LockError("MSZOO_LOCK", what, "Serve on cpu or npu, or unset MSZOO_LOCK.")
        log.info("mszoo: nothing installed: MindSpore models run on cpu and npu")
        return None
    catalog = load_catalog(device=device)
    if catalog.settings.lock is not None:
        from mszoo.registry.lock_check import enforce

        enforce(catalog.settings.lock, catalog.differences)
    force_spawn()
    carry_settings()
    registered, taken_over = register_models(catalog)
    swaps, layer_problems = _install_layers_and_ops(catalog)
    if not catalog.settings.disabled_all:
        if multiprocessing.parent_process() is None:
            reports.open_folder()
        watch(catalog, swaps, registered)
    _report(catalog, [*taken_over, *layer_problems])
    _installed.append(catalog)
    return catalog


def _install_layers_and_ops(catalog: Catalog) -> tuple[list[Swap], list[Problem]]:
    """Return the layers that were replaced, and what people need to know about the others."""
    swaps: list[Swap] = []
    problems: list[Problem] = []
    if catalog.layer_decisions():
        from mszoo.adapters.vllm.layers.install import install_layers

        swaps, problems = install_layers(catalog)
    if catalog.op_decisions():
        from mszoo.adapters.vllm.ops.install import install_ops

        install_ops(catalog)
    return swaps, problems


def _report(catalog: Catalog, conflicts: list[Problem]) -> None:
    # Every process of a server comes here; people need to read it once.
    first = multiprocessing.parent_process() is None
    say = log.warning if first else log.debug
    for problem in (*catalog.problems, *conflicts):
        say("mszoo: %s", problem)
    if first and not catalog.settings.disabled_all:
        for fault in machine_faults(catalog.device):
            log.warning("mszoo: %s", fault)
    for plugin in catalog.discovery.unlisted:
        say("mszoo: %s is not loaded: %s doesn't list it", plugin, catalog.settings.lock)
    served = [name for name, decision in catalog.decisions().items() if decision.chain]
    log.info(
        "mszoo %s: %d architectures on %s (%s), decision %s; see: mszoo list",
        version("mszoo"),
        len(served),
        catalog.device,
        ", ".join(served[:6]) + (", ..." if len(served) > 6 else ""),
        catalog.digest(),
    )
