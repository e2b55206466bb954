"""What ``mszoo explain`` is asked about: a model folder, an architecture, a layer or an op."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from mszoo.adapters.vllm.cli.explain.folder import read_architectures
from mszoo.adapters.vllm.cli.explain.model import own_class
from mszoo.registry import vllm_layers
from mszoo.registry.catalog import Catalog
from mszoo.registry.cli import names
from mszoo.registry.errors import MszooError

_NAME = re.compile(r"([A-Za-z_][\w-]*\.)?[A-Za-z_]\w*")
_VLLM = "vllm:"


@dataclass(frozen=True)
class Target:
    """What was asked about.

    Args:
        architectures: of a folder or by name; none of a layer or op.
        folder: the model folder; None where a name was given.
        ops: of what was asked about, an op; else none.
        layers: the targets that were asked about; else none.
    """

    architectures: tuple[str, ...] = ()
    folder: Path | None = None
    ops: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()


def resolve(text: str, catalog: Catalog) -> Target:
    """Return what a target means; a name that is nobody's is an architecture that nobody serves.

    Raises:
        MszooError: it is a suite, a layer that nobody replaces, or a folder that holds no model.
    """
    folder = Path(os.path.expanduser(text))
    if catalog.decide(text).verdicts:
        return Target((text,))
    is_there = os.path.exists(folder)
    layers = names.layers_of(catalog, text)
    if layers and not is_there:
        return Target(layers=tuple(layers))
    layer = text.removeprefix(_VLLM)
    if is_there or not (_NAME.fullmatch(layer)):
        return Target(tuple(read_architectures(folder)), folder)
    if text in names.suites(catalog):
        raise MszooError(
            "mszoo explain", f"{text} is a suite, not an architecture", f"See what it has: mszoo list {text}"
        )
    if text in names.ops(catalog):
        return Target(ops=(text,))
    if own_class(text) is None and vllm_layers.modules_of(layer):
        what = f"no suite replaces vLLM's layer {layer}, so its own code runs"
        raise MszooError("mszoo explain", what, "`mszoo list` shows who replaces layers.")
    if layer != text:
        nearest = vllm_layers.nearest_name(layer)
        hint = f"Did you mean {_VLLM}{nearest}?" if nearest else names.nearest(catalog, text)
        raise MszooError("mszoo explain", f"vLLM has no replaceable layer {layer!r}", hint)
    return Target((text,))
