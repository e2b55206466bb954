"""Says whether an adapter can run here, from installed metadata alone; nothing is imported."""

from __future__ import annotations

import importlib.metadata
import shlex
from collections.abc import Callable, Iterable, Mapping

from mszoo.registry.records import Adapter, ModelAdapter, Suite
from mszoo.registry.text import printable
from mszoo.registry.validation import parse_requirement


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        version = importlib.metadata.version(distribution)
    except Exception:  # none, or its metadata is damaged: the error depends on the Python version
        return None
    return printable(version) if isinstance(version, str) else None


class Availability:
    """Checks adapters for one device against one set of installed distributions.

    Args:
        device: ``cpu`` or ``npu``.
        installed: the version of a distribution by name, or None.
    """

    def __init__(self, device: str, installed: Callable[[str], str | None] = installed_version) -> None:
        self._device = device
        self._installed = installed
        # Adapters by the thousand repeat a few requirements, and each look-up reads files.
        self._checked: dict[str, str | None] = {}

    def obstacle(self, adapter: Adapter, suite: Suite, dtype: str | None = None) -> str | None:
        """Return why the adapter can't run here, ending with the cure where there is one; None if it can.

        Args:
            adapter: what to check.
            suite: whose adapter it is.
            dtype: what the model computes in, such as ``float32``; None where that is not known yet.
        """
        if isinstance(adapter, ModelAdapter) and adapter.refused:
            return adapter.refused
        if self._device not in adapter.devices:
            devices = " or ".join(adapter.devices)
            return f"runs on {devices}, not on {self._device}: serve it on {devices}"
        if dtype is not None and dtype not in adapter.dtypes:
            dtypes = " or ".join(adapter.dtypes)
            return f"computes in {dtypes}, not in {dtype}: serve with --dtype {adapter.dtypes[0]}"
        of_suite = self._unmet(suite.requires)
        of_adapter = {
            item: why for item, why in self._unmet(adapter.requires).items() if item not in of_suite
        }
        return _needs(suite, of_suite, of_adapter)

    def suite_obstacle(self, suite: Suite) -> str | None:
        """Return why none of a suite's adapters can run here, ending with the cure; None if the suite is usable."""
        return _needs(suite, self._unmet(suite.requires), {})

    def _unmet(self, requirements: Iterable[str]) -> dict[str, str]:
        checked = {item: self._check(item) for item in requirements}
        return {item: why for item, why in checked.items() if why is not None}

    def _check(self, text: str) -> str | None:
        if text not in self._checked:
            self._checked[text] = self._shortfall(text)
        return self._checked[text]

    def _shortfall(self, text: str) -> str | None:
        from packaging.version import InvalidVersion

        requirement = parse_requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            return None
        version = self._installed(requirement.name)
        needed = f"{requirement.name}{requirement.specifier}"
        if version is None:
            return f"{needed}, which is not installed"
        try:
            # Pre-releases count: an operator who installed one means to use it.
            met = requirement.specifier.contains(version, prereleases=True)
        except InvalidVersion:
            met = not requirement.specifier
        return None if met else f"{needed}, but {version} is installed"


def _needs(suite: Suite, of_suite: Mapping[str, str], of_adapter: Mapping[str, str]) -> str | None:
    """Say what is missing and how to get it; None if nothing is. Both: requirement to what is wrong with it."""
    if not of_suite and not of_adapter:
        return None
    cures = []
    if of_suite and suite.install:
        cures.append(suite.install)
    else:
        of_adapter = {**of_suite, **of_adapter}
    if of_adapter:
        cures.append(f"pip install {' '.join(shlex.quote(item) for item in of_adapter)}")
    return f"needs {' and '.join({**of_suite, **of_adapter}.values())}: {' && '.join(cures)}"
