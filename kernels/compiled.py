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


def decoder_layer(
    tensors: dict[str, torch.Tensor],
    integers: dict[str, int],
    floats: dict[str, float],
    words: dict[str, str],
) -> Any:
    """Make a compiled decoder layer; see csrc/decoder_layer.cpp for the names."""
    return torch.classes.mszoo.DecoderLayer(tensors, integers, floats, words)


def latent_layer(
    tensors: dict[str, torch.Tensor],
    integers: dict[str, int],
    floats: dict[str, float],
    words: dict[str, str],
) -> Any:
    """Make a compiled decoder layer with latent attention; see csrc/latent_layer.cpp for the names."""
    return torch.classes.mszoo.LatentLayer(tensors, integers, floats, words)


def mixture(
    tensors: dict[str, torch.Tensor],
    integers: dict[str, int],
    floats: dict[str, float],
    words: dict[str, str],
) -> Any:
    """Make a compiled mixture of experts; see csrc/mixture.cpp for the names."""
    return torch.classes.mszoo.Mixture(tensors, integers, floats, words)
