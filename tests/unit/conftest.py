"""Plugins for the tests: temporary modules and the entry points that name them."""

from __future__ import annotations

import importlib
import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings

from mszoo.registry import ModelAdapter, Suite
from mszoo.registry.catalog import Catalog
from mszoo.registry.discovery import Contribution, Discovery, discover
from mszoo.registry.entry_points import Plugin
from mszoo.registry.settings import Settings

_numbers = itertools.count()
# A first example may import something, and machines are shared: how long one takes says nothing.
hypothesis_settings.register_profile("mszoo", deadline=None)
hypothesis_settings.load_profile("mszoo")


class FakeDistribution(Distribution):
    """A distribution that is nowhere on the disk."""

    def __init__(self, name: str, version: str) -> None:
        self._text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"

    def read_text(self, filename: str) -> str | None:
        return self._text if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def make_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Write a module that can be imported during the test; gives its name."""
    made: list[str] = []
    monkeypatch.syspath_prepend(tmp_path)

    def make(source: str) -> str:
        name = f"plugin_under_test_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        importlib.invalidate_caches()
        made.append(name)
        return name

    yield make
    for name in made:
        sys.modules.pop(name, None)


@pytest.fixture
def make_entry_point() -> Callable[..., EntryPoint]:
    """Make an entry point of a distribution that isn't installed."""

    def make(value: str, name: str, distribution: str, group: str = "mszoo.commands") -> EntryPoint:
        entry_point = EntryPoint(name, value, group)
        vars(entry_point).update(dist=FakeDistribution(distribution, "1.0"))
        return entry_point

    return make


@pytest.fixture
def make_plugin(make_module: Callable[[str], str]) -> Callable[..., EntryPoint]:
    """Write a plugin from the body of its module; gives its entry point."""
    header = "from mszoo.registry import Capability, LayerAdapter, ModelAdapter, OpAdapter, Suite, hookimpl\n"

    def make(
        source: str,
        name: str = "demo",
        distribution: str = "demo-dist",
        version: str = "1.0",
        attribute: str = "",
    ) -> EntryPoint:
        module = make_module(header + textwrap.dedent(source))
        entry_point = EntryPoint(name, module + attribute, "mszoo")
        vars(entry_point).update(dist=FakeDistribution(distribution, version))
        return entry_point

    return make


@pytest.fixture
def make_catalog() -> Callable[..., Catalog]:
    """Build a catalog from ``{suite: [ModelAdapter, ...]}`` without any plugin module."""

    def make(
        suites: dict[str | Suite, list[ModelAdapter]],
        settings: Settings | None = None,
        device: str = "cpu",
        installed: dict[str, str] | None = None,
    ) -> Catalog:
        contributions = []
        for key, models in suites.items():
            suite = key if isinstance(key, Suite) else Suite(key)
            plugin = Plugin(suite.name, f"{suite.name}-dist", "1.0", "somewhere")
            contributions.append(Contribution(plugin, suite, tuple(models)))
        plugins = tuple(item.plugin for item in contributions)
        manager = discover(Settings(), []).manager
        discovery = Discovery(tuple(contributions), (), plugins, manager)
        return Catalog(discovery, settings or Settings(), device, (installed or {}).get)

    return make
