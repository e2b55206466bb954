"""What vLLM's kernels for this processor decide of the engines that tests start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def attention_options(folder: Path, dtype: str) -> dict[str, Any]:
    """Return options of ``vllm.LLM`` with which a model's cache is attended to in a dtype.

    On processors with AMX vLLM attends to latent caches (multi-head latent attention) by a backend for bfloat16
    alone; its other one for CPUs takes every dtype.

    Args:
        folder: the checkpoint.
        dtype: as ``vllm.LLM`` takes it, such as ``float32``.
    """
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):  # of another format, or broken: whoever serves it will say so
        return {}
    latent = isinstance(config, dict) and config.get("kv_lora_rank") is not None
    return {"attention_backend": "CPU_MLA"} if latent and dtype != "bfloat16" and _kernels_of_amx() else {}


def int8_dtype() -> str:
    """Return the widest dtype that checkpoints of int8 weights (W8A8) are served in."""
    return "bfloat16" if _kernels_of_amx() else "float32"


def _kernels_of_amx() -> bool:
    import torch

    from mszoo.conformance.seam import AttentionBackendEnum

    return torch.cpu._is_amx_tile_supported() and hasattr(AttentionBackendEnum, "AMX_MLA")
