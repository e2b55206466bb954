"""Reads what a model folder's config.json says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mszoo.registry.errors import MszooError


def read_architectures(folder: Path) -> list[str]:
    """Return the ``architectures`` of a model folder's config.json.

    Raises:
        MszooError: the folder or its config.json is missing or unreadable, or names no architecture.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "doesn't exist"
        raise MszooError(
            str(folder), what, "Give a model folder, or an architecture such as LlamaForCausalLM."
        )
    hint = "Give the folder of a Hugging Face model."
    if not path.is_file():
        raise MszooError(str(folder), "has no config.json", hint)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MszooError(str(path), f"can't be read ({error.strerror})", "Check its permissions.") from error
    except (ValueError, RecursionError) as error:
        raise MszooError(str(path), f"is not valid JSON ({error})", "Download the model again.") from error
    names = config.get("architectures") if isinstance(config, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        hint = 'Add "architectures", such as ["LlamaForCausalLM"].'
        raise MszooError(str(path), "names no architectures", hint)
    return names


def config_fields(folder: Path) -> dict[str, Any]:
    """Return the fields of a folder's config.json, which has been read before."""
    fields: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return fields


def config_dtype(folder: Path) -> str | None:
    """Return the dtype that a folder's config.json names, or None."""
    fields = config_fields(folder)
    value = fields.get("dtype", fields.get("torch_dtype"))
    return value if isinstance(value, str) else None
