"""Makes the classes that ``mszoo check`` runs: the packages' own where they give some, plain ones otherwise."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
from collections.abc import Mapping
from typing import Any

from mszoo.conformance.base import Conformance, catalog
from mszoo.conformance.device import DeviceConformance
from mszoo.conformance.encoders import EncoderConformance
from mszoo.conformance.heads import HeadConformance
from mszoo.conformance.layers import LayerConformance
from mszoo.conformance.models import ModelConformance
from mszoo.conformance.multimodal import MultiModalConformance
from mszoo.conformance.ops import OpConformance
from mszoo.conformance.suites import SuiteConformance
from mszoo.registry.allowed import is_allowed
from mszoo.registry.settings import Settings

GROUP = "mszoo.conformance"
KINDS: Mapping[str, type[Conformance]] = {
    "device": DeviceConformance,
    "suite": SuiteConformance,
    "model": ModelConformance,
    "encoder": EncoderConformance,
    "head": HeadConformance,
    "multimodal": MultiModalConformance,
    "layer": LayerConformance,
    "op": OpConformance,
}


def conformance_class(kind: str, attributes: Mapping[str, str]) -> type[Conformance]:
    """Return the test class of one subject, for a test module to hold.

    Args:
        kind: a key of :data:`KINDS`.
        attributes: what names the subject in a class of this kind.
    """
    plain: Any = type(f"Test{kind.title()}", (KINDS[kind],), {**attributes, "__module__": __name__})
    return _declared().get((kind, plain.subject()), plain)


@functools.cache
def _declared() -> Mapping[tuple[str, str], type[Conformance]]:
    """Return the classes of all modules that packages name in the group ``mszoo.conformance``.

    Those that MSZOO_DISABLE names, and those of distributions that the lock in force doesn't list, are left out.
    """
    import pytest

    found: dict[tuple[str, str], type[Conformance]] = {}
    settings = Settings.from_environ()
    if settings.disabled_all:
        return found
    catalog()  # a lock holds from here on
    for entry_point in importlib.metadata.entry_points(group=GROUP):
        distribution = "" if entry_point.dist is None else entry_point.dist.name
        if entry_point.name in settings.disabled or not is_allowed(distribution):
            continue
        pytest.register_assert_rewrite(entry_point.module)
        module = entry_point.load()
        for value in vars(module).values():
            if inspect.isclass(value) and value.__module__ == module.__name__:
                found |= {
                    (kind, value.subject()): value for kind, base in KINDS.items() if issubclass(value, base)
                }
    return found
