"""Reads what a checkpoint holds from its safetensors headers, before any weight is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mszoo.layers.weights import CheckpointError


def tensor_shapes(vllm_config: Any) -> dict[str, tuple[int, ...]] | None:
    """Return the shape of every tensor in the model's folder, by name.

    Returns:
        None where vLLM's loader doesn't read safetensors from a local folder (a hub name, another format).

    Raises:
        CheckpointError: the folder holds no weights, or a file is missing, truncated or no safetensors file.
    """
    folder = Path(vllm_config.model_config.model)
    if vllm_config.load_config.load_format not in ("auto", "safetensors") or not folder.is_dir():
        return None
    files = _files(folder)
    if not files:
        if any(next(folder.glob(pattern), None) for pattern in ("*.bin", "*.pt", "*.gguf")):
            return None
        raise CheckpointError(
            str(folder),
            "holds no weights (no *.safetensors file)",
            "Download or convert the checkpoint again",
        )
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes.update(_header(file))
    return shapes


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            str(index), f"is not an index of safetensors files ({error})", "Copy the file again"
        ) from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            str(folder), f"lacks {', '.join(missing)}, which {index.name} lists", "Copy the missing files"
        )
    return [folder / name for name in names]


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        # Opening checks the header against the file's size.
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            str(file), f"is truncated or not a safetensors file ({error})", "Copy the file again"
        ) from error
