"""The registry of MindSpore model adapters for vLLM: what a suite needs to register its models."""

from mszoo.registry.errors import MszooError
from mszoo.registry.hookspecs import hookimpl
from mszoo.registry.records import Capability, LayerAdapter, ModelAdapter, OpAdapter, Suite

__all__ = ["Capability", "LayerAdapter", "ModelAdapter", "MszooError", "OpAdapter", "Suite", "hookimpl"]
