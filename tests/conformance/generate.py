"""Makes the classes that ``mszoo check`` runs: the packages' own where they give some, plain ones otherwise."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from mszoo.conformance.base import Conformance
from mszoo.conformance.encoders import EncoderConformance
from mszoo.conformance.layers import LayerConformance
from mszoo.conformance.models import ModelConformance
from mszoo.conformance.ops import OpConformance
from mszoo.conformance.suites import SuiteConformance

GROUP = "mszoo.conformance"
KINDS: Mapping[str, type[Conformance]] = {
    "suite": SuiteConformance,
    "model": ModelConformance,
    "encoder": EncoderConformance,
    "layer": LayerConformance,
    "op": OpConformance,
}


def classes(wanted: Iterable[Mapping[str, Any]]) -> dict[str, type[Conformance]]:
    """Return test classes by name, for a test module to hold.

    Args:
        wanted: for each adapter its ``kind``, and the ``attributes`` that name it in a class of this kind.
    """
    own = {(kind, cls.subject()): cls for kind, cls in _declared()}
    found: dict[str, type[Conformance]] = {}
    for index, item in enumerate(wanted):
        kind, attributes = item["kind"], dict(item["attributes"])
        plain = type(f"Test{kind.title()}{index}", (KINDS[kind],), attributes | {"__module__": __name__})
        chosen = own.get((kind, plain.subject()), plain)
        found[f"Test{index:03}{chosen.__name__}"] = chosen
    return found


def _declared() -> Iterable[tuple[str, type[Conformance]]]:
    """Give the classes of all modules that packages name in the group ``mszoo.conformance``."""
    import pytest

    for entry_point in importlib.metadata.entry_points(group=GROUP):
        pytest.register_assert_rewrite(entry_point.module)
        module = entry_point.load()
        for value in vars(module).values():
            if inspect.isclass(value) and value.__module__ == module.__name__:
                for kind, base in KINDS.items():
                    if issubclass(value, base):
                        yield kind, value
