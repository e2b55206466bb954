"""Reads what a model folder's config.json says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mszoo.models.config_types import most_of
from mszoo.registry.errors import MszooError
from mszoo.registry.json_text import NotJsonError, read_json
from mszoo.registry.text import printable, shown

_LONGEST, _MOST = 200, 100


def read_architectures(folder: Path) -> list[str]:
    """Return the ``architectures`` of a model folder's config.json.

    Raises:
        MszooError: the folder or its config.json is missing or unreadable, names no architecture, or has a size
            that no model has.
    """
    path = folder / "config.json"
    if not os.path.isdir(folder):
        what = "is not a folder" if os.path.exists(folder) else "doesn't exist"
        raise MszooError(
            str(folder), what, "Give a model folder, or an architecture such as LlamaForCausalLM."
        )
    hint = "Give the folder of a Hugging Face model."
    if not os.path.exists(path):
        raise MszooError(str(folder), "has no config.json", hint)
    config = _read(path)
    names = config.get("architectures") if isinstance(config, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        hint = 'Add "architectures", such as ["LlamaForCausalLM"].'
        raise MszooError(str(path), "names no architectures", hint)
    refuse_absurd(path, config)
    return [printable(name, _LONGEST) for name in names[:_MOST]]


def refuse_absurd(path: Path, fields: dict[str, Any]) -> None:
    """Refuse sizes above all that exist, before transformers makes a list of so many layers.

    Args:
        path: of the config.json, for messages.
        fields: what it says, parts of a multimodal model included.

    Raises:
        MszooError: naming the first.
    """
    pending: list[Any] = [fields]
    while pending:
        one = pending.pop()
        if not isinstance(one, dict):
            continue
        for name, value in one.items():
            most = most_of(name)
            if most is not None and type(value) is int and value > most:
                what = f"says {name}={shown(value)}, and no model has more than {most}"
                raise MszooError(str(path), what, "Download the model again, or mend it.")
        pending.extend(one.values())


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except OSError as error:
        raise MszooError(str(path), f"can't be read ({error.strerror})", "Check its permissions.") from error
    except NotJsonError as error:
        raise MszooError(str(path), f"is not valid JSON ({error})", "Download the model again.") from error


def config_fields(folder: Path) -> dict[str, Any]:
    """Return the fields of a folder's config.json, which has been read before."""
    fields: dict[str, Any] = _read(folder / "config.json")
    return fields


def config_dtype(folder: Path) -> str | None:
    """Return the dtype that a folder's config.json names, or None."""
    fields = config_fields(folder)
    value = fields.get("dtype", fields.get("torch_dtype"))
    return value if isinstance(value, str) else None
