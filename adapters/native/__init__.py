"""The ``native`` suite: mszoo's own MindSpore models."""

from __future__ import annotations

from collections.abc import Iterable

from mszoo.adapters.native import dense, encoders, experts, heads, multimodal, publishers
from mszoo.registry import ModelAdapter, Suite, hookimpl


@hookimpl
def mszoo_suite() -> Suite:
    """Name the suite."""
    return Suite("native", description="mszoo's own MindSpore models")


@hookimpl
def mszoo_model_adapters() -> Iterable[ModelAdapter]:
    """Give the native models."""
    modules = (dense, experts, publishers, encoders, heads, multimodal)
    return [record for module in modules for record in module.RECORDS]
