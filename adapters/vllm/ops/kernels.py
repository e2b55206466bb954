"""From the catalog's decisions about ops to the kernels of one model; knows no vllm, torch or mindspore."""

from __future__ import annotations

from mszoo.adapters.vllm.stages import stage
from mszoo.kernels import dispatch
from mszoo.kernels.dispatch import Implementation, Kernels
from mszoo.registry.catalog import Catalog
from mszoo.registry.entry_points import Plugin
from mszoo.registry.errors import PluginError
from mszoo.registry.settings import KERNELS
from mszoo.registry.text import describe


def choose_kernels(catalog: Catalog, requested: str, dtype: str) -> Kernels:
    """Choose what runs each op of a model; nothing is imported.

    Args:
        catalog: has the decisions about ops, and the device.
        requested: ``MSZOO_KERNELS``.
        dtype: the model's dtype, such as "float32".

    Raises:
        RefusalError: no kernel set serves this device and dtype.
    """
    return dispatch.choose(requested, catalog.device, dtype, _from_suites(catalog, dtype))


def choose_loadable_kernels(
    catalog: Catalog, requested: str, dtype: str
) -> tuple[Kernels, list[PluginError]]:
    """Choose like choose_kernels, and pass over suites' implementations that can't be imported.

    Returns:
        The kernels, and what is wrong with each implementation that was passed over.
    """
    offers = _from_suites(catalog, dtype)
    errors: list[PluginError] = []
    while True:
        kernels = dispatch.choose(requested, catalog.device, dtype, offers)
        broken = {op: error for op, item in kernels.from_suites.items() if (error := _load_error(item))}
        if not broken:
            return kernels, errors
        for op, error in broken.items():
            item = kernels.ops[op]
            plugin = offers[op].pop(item)
            what = f"{item.path} can't be loaded ({describe(error)}); the next implementation of the op runs"
            errors.append(PluginError(f"{op} by {item.who}", what, plugin.cure))
            errors[-1].__cause__ = error


def _from_suites(catalog: Catalog, dtype: str) -> dict[str, dict[Implementation, Plugin]]:
    """Return by op, best first, the suites' implementations that go before our own, and their plugins.

    Those of a kernel set that isn't one of mszoo's go before it where MSZOO_KERNELS names the set.
    """
    offers: dict[str, dict[Implementation, Plugin]] = {}
    for op, decision in catalog.op_decisions(dtype).items():
        for candidate in decision.chain:
            reason = catalog.why_before_own(candidate)
            wanted = catalog.settings.kernels
            if wanted == candidate.adapter.kernel_set and wanted not in KERNELS:
                reason = f"MSZOO_KERNELS={wanted}"  # a set of the suite's own: naming it is asking for it
            if reason is not None:
                plugin, adapter = candidate.plugin, candidate.adapter
                who = f"{candidate.suite.name} of {plugin.source}"
                item = Implementation(
                    adapter.kernel_set, adapter.implementation, who, reason, cure=plugin.cure
                )
                offers.setdefault(op, {})[item] = plugin
    return offers


def _load_error(item: Implementation) -> BaseException | None:
    with stage(item.who, f"{item.path} was imported") as failure:
        dispatch.load(item.path)
    return failure.error
