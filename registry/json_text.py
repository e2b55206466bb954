"""Reads JSON that others wrote: bounded in size, and whatever is wrong with it is one clause."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Bytes. A config.json has thousands, the index of a checkpoint of 100,000 tensors 10 million.
LARGEST_CONFIG = 16 << 20
LARGEST_INDEX = 128 << 20


class NotJsonError(ValueError):
    """Why a text can't be read as JSON, or isn't read."""


def read_json(path: Path, largest: int = LARGEST_CONFIG) -> Any:
    """Return what a JSON file holds.

    Raises:
        OSError: it can't be opened.
        NotJsonError: it is no file, larger than ``largest`` bytes, no UTF-8, no JSON, or nested too deeply.
    """
    content = read_file(path, largest)
    try:
        return parse_json(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise NotJsonError(str(error)) from error


def read_file(path: Path, largest: int) -> bytes:
    """Return the bytes of a file.

    Raises:
        OSError: it can't be opened.
        NotJsonError: it is no file, or larger than ``largest`` bytes.
    """
    try:
        if not os.path.isfile(path):  # a pipe would never end
            os.stat(path)
            raise NotJsonError("it is no file")
        with open(path, "rb") as file:
            content = file.read(largest + 1)
    except OSError:
        raise
    except ValueError as error:  # a null byte in the name
        raise NotJsonError(str(error)) from error
    if len(content) > largest:
        raise NotJsonError(f"it has more than {largest >> 20} MiB")
    return content


def parse_json(text: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return what a JSON text holds.

    Args:
        text: all of it.
        pairs: makes an object of its pairs; None for a dict.

    Raises:
        NotJsonError: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError as error:
        raise NotJsonError("it is nested too deeply") from error
    except ValueError as error:  # integers of thousands of digits, too
        raise NotJsonError(str(error)) from error
