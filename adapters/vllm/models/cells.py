"""From the catalog's decisions about layers to the replacements inside a suite's own models."""

from __future__ import annotations

from mszoo.layers.cells import Replacement
from mszoo.registry.catalog import Catalog


def replacements(catalog: Catalog, suite: str, dtype: str) -> dict[str, Replacement]:
    """Return what takes the place of which class of cells, by ``module:Class``, in the models of a suite.

    Args:
        catalog: has the decisions about layers, and the device.
        suite: whose model is built.
        dtype: the model's dtype, such as "float32".
    """
    prefix = f"{suite}:"
    found = {}
    for target, decision in catalog.layer_decisions(dtype).items():
        if target.startswith(prefix) and decision.chain:
            winner = decision.chain[0]
            plugin = winner.plugin
            who = f"{winner.suite.name} of {plugin.source}"
            found[target.removeprefix(prefix)] = Replacement(winner.adapter.implementation, who, plugin.cure)
    return found
