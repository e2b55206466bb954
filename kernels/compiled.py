"""Finds and loads the compiled kernels: a library that belongs to exactly one version of torch."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch


@functools.cache
def missing() -> str | None:
    """Load the library; return None if it is there, else why not, and how to get it."""
    version = torch.__version__.partition("+")[0]
    library = Path(__file__).resolve().with_name(f"cpu_ops.torch-{version}.so")
    if not library.is_file():
        return (
            f"no compiled kernels for torch {version}: install mszoo with a C++ compiler, torch in the "
            "environment and pip's --no-build-isolation"
        )
    try:
        import vllm._custom_ops  # noqa: F401  the library calls vLLM's kernels

        torch.ops.load_library(str(library))
    except (ImportError, OSError) as error:
        return f"the compiled kernels don't load ({error})"
    return None


def decoder_layer(*args: Any) -> Any:
    """Make a compiled decoder layer; see csrc/decoder_layer.cpp for the arguments."""
    return torch.classes.mszoo.DecoderLayer(*args)
