"""The standard tests of a suite: what a package registers as a whole."""

from __future__ import annotations

import importlib.metadata

import pytest

from mszoo.conformance.base import PluginConformance, catalog, static
from mszoo.registry.catalog import Catalog
from mszoo.registry.devices import DEVICES
from mszoo.registry.discovery import Contribution
from mszoo.registry.entry_points import Plugin
from mszoo.registry.plugins import GROUP
from mszoo.registry.records import Adapter


class SuiteConformance(PluginConformance):
    """The standard tests of one suite, and of nothing that needs vLLM or MindSpore::

        from mszoo.conformance import SuiteConformance

        class TestMySuite(SuiteConformance):
            suite = "mysuite"

    Troubleshooting. *No suite is registered*: the package is not installed in this environment, its
    pyproject has no entry point in the group ``mszoo``, or importing the entry point failed; ``mszoo list``
    names the problem. *Registering is not light*: the module that holds the hooks imports the models; name them
    as "module:Class" instead.

    Attributes:
        suite: the suite's name.
    """

    kind = "suite"
    suite: str

    @classmethod
    def subject(cls) -> str:
        """Return the suite's name."""
        return cls.suite

    @classmethod
    def plugin(cls) -> Plugin:
        """Return the plugin that gives the suite."""
        return cls.contribution().plugin

    @classmethod
    def contribution(cls) -> Contribution:
        """Return what the suite registers; fails the test if there is no such suite."""
        found = {item.suite.name: item for item in catalog().discovery.contributions}
        if cls.suite not in found:
            problems = "".join(f"\n{problem}" for problem in catalog().problems)
            known = ", ".join(found) or "none"
            pytest.fail(f"no suite {cls.suite} is registered. Known: {known}.{problems}", pytrace=False)
        return found[cls.suite]

    @static
    def test_entry_point(self) -> None:
        """An installed distribution declares the plugin, so vLLM's processes find it too."""
        plugin = self.contribution().plugin
        distribution = importlib.metadata.distribution(plugin.distribution)
        declared = [(item.name, item.value) for item in distribution.entry_points if item.group == GROUP]
        assert (plugin.name, plugin.value) in declared

    @static
    def test_describes_itself(self) -> None:
        """It has a description, and says how to get what it requires."""
        suite = self.contribution().suite
        assert suite.description, "the suite has no description: `mszoo list` shows it"
        assert suite.install or not suite.requires, "the suite has requires and no install command"

    @static
    def test_nothing_was_dropped(self) -> None:
        """Each record that the hooks return is a candidate: none is a duplicate, none names an unknown op."""
        contribution = self.contribution()
        # A record for another device is a candidate there only, where the suite has one for this device.
        here = catalog()
        catalogs = [Catalog(here.discovery, here.settings, device) for device in DEVICES]
        kept = {
            id(verdict.candidate.adapter)
            for of_device in catalogs
            for decisions in (of_device.decisions(), of_device.layer_decisions(), of_device.op_decisions())
            for decision in decisions.values()
            for verdict in decision.verdicts
        }
        records: tuple[Adapter, ...] = (*contribution.models, *contribution.layers, *contribution.ops)
        dropped = [record.subject for record in records if id(record) not in kept]
        assert not dropped, f"{len(records)} records were returned, and of these nobody can choose {dropped}"
