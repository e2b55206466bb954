"""Reads architectures.json, the survey's list of MindSpore One's models: who is served, and why others aren't."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("architectures.json")


@dataclass(frozen=True)
class Architecture:
    """One decoder or encoder.

    Attributes:
        family: its folder in MindSpore One.
        base: the class of its network without the output projection.
        dtypes: what it computes in.
        example_config: the fields of a tiny config.json.
        pooling: for an encoder, what vLLM pools by default; empty for a decoder.
        refused: why it can't be served; empty if it can.
    """

    family: str
    base: str = ""
    dtypes: tuple[str, ...] = ("float32",)
    example_config: Mapping[str, Any] | None = None
    pooling: str = ""
    refused: str = ""


@functools.cache
def read() -> Mapping[str, Architecture]:
    """Return the models by the name in ``architectures`` of config.json."""
    return {name: Architecture(**fields) for name, fields in _content()["architectures"].items()}


@functools.cache
def norms() -> tuple[str, ...]:
    """Return the cells that compute the plain root mean square norm, as ``module:Class``."""
    return tuple(_content()["norms"])


def _content() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
