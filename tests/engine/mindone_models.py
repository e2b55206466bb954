"""Tiny models of MindSpore One's families, and a look at how their layers run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mszoo.adapters.mindone import architectures
from mszoo.conformance.checkpoints import make_checkpoint


def architecture_of(family: str) -> str:
    """Return the architecture of a family, called as its classes are."""
    return "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"


def pinned(family: str) -> dict[str, Any]:
    """Return vLLM's hf_overrides that make MindSpore One's model serve, and no other."""
    return {"architectures": [f"mindone.{architecture_of(family)}"]}


def make_tiny(family: str, folder: Path, **fields: Any) -> Path:
    """Write a random checkpoint and return its folder."""
    architecture = architecture_of(family)
    config = dict(architectures.read()[architecture].example_config or {}, **fields)
    return make_checkpoint(config, architecture, folder, lambda _: {}).folder


def layers_of(model: Any) -> list[tuple[str, bool]]:
    """Return the class of each decoder layer that mszoo's layers compute, and whether it runs as one call."""
    return [(type(layer).__name__, layer.compiled.runs) for layer in _layers(model)]


def run_op_by_op(model: Any) -> None:
    """Let layers that run as a whole run op by op from now on, as with LoRA or tensor parallelism."""
    for layer in _layers(model):
        layer.compiled.stop()


def _layers(model: Any) -> list[Any]:
    from mszoo.layers.decoder import DecoderLayer

    return [module for module in model.modules() if isinstance(module, DecoderLayer)]
