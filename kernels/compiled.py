"""Finds and loads the compiled kernels: a library that belongs to exactly one version of torch."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from mszoo.kernels import vllm_ops


@functools.cache
def missing() -> str | None:
    """Load the library; return None if it can be called, else why not, and how to mend that."""
    version = torch.__version__.partition("+")[0]
    library = Path(__file__).resolve().with_name(f"cpu_ops.torch-{version}.so")
    if not library.is_file():
        return (
            f"no compiled kernels for torch {version}: install mszoo with a C++ compiler, torch in the "
            "environment and pip's --no-build-isolation"
        )
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"the compiled kernels don't load ({error})"
    return vllm_ops.obstacle(vllm_ops.COMPILED_LAYER)


def make(
    name: str,
    tensors: dict[str, torch.Tensor],
    integers: dict[str, int],
    floats: dict[str, float],
    words: dict[str, str],
) -> Any:
    """Make a compiled part of a model; its source in csrc names what it gets.

    Args:
        name: "DecoderLayer", "LatentLayer" or "Mixture".
        tensors, integers, floats, words: its weights, sizes and choices.
    """
    return getattr(torch.classes.mszoo, name)(tensors, integers, floats, words)
