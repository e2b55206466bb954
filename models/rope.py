"""Reads ``rope_parameters``: what the reference reads of them, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from mszoo.models.config_keys import rope_keys
from mszoo.models.config_types import is_number
from mszoo.registry.errors import RefusalError

#: Entries that a rope type can't do without, beside ``rope_theta``.
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "dynamic": ("factor",),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "longrope": ("short_factor", "long_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}
_LISTS = ("long_factor", "short_factor")
_ABOVE_0 = ("rope_theta", "factor", "partial_rotary_factor", "original_max_position_embeddings")
_NO_NUMBERS = ("rope_type", "truncate", "mrope_section")


def read_rope(parameters: Any, who: str, reference: str) -> dict[str, Any]:
    """Return what the reference reads of one rotary embedding's ``rope_parameters``.

    Args:
        parameters: as transformers' config has them, for one type of layer.
        who: the adapter's name, for messages.
        reference: the model type whose implementation reads them; empty where there is none.

    Returns:
        ``rope_type``, ``rope_theta`` and the type's own.

    Raises:
        RefusalError: they are of wrong types, or lack something that the rope type needs.
    """
    if not isinstance(parameters, Mapping):
        _refuse(who, "rope_parameters", parameters, "an object")
    rope = {str(name): value for name, value in parameters.items() if value is not None}
    old_name = rope.pop("type", "default")
    kind = rope.setdefault("rope_type", old_name)
    if not isinstance(kind, str):
        _refuse(who, "rope_parameters.rope_type", kind, "a name")
    if reference and kind in (*_NEEDED, "default"):
        rope = _without_effect_left_out(rope, who, reference)
    for name, value in rope.items():
        _check(name, value, who)
    missing = [name for name in (*_NEEDED.get(kind, ()), "rope_theta") if name not in rope]
    if missing:
        gives = f"says rope_type={kind!r} and gives" if kind != "default" else "gives"
        raise RefusalError(
            who,
            f"config.json {gives} no {', '.join(missing)}",
            f"Add {missing[0]} to config.json"
            if kind == "default"
            else f"Add {missing[0]} to rope_parameters",
        )
    return rope


def _without_effect_left_out(rope: dict[str, Any], who: str, reference: str) -> dict[str, Any]:
    kind = rope["rope_type"]
    # The frequencies of the other types are of a part of the head: a model that turns all of it fails with them.
    turns_all = "partial_rotary_factor" not in rope_keys(reference, "default")
    if kind != "default" and turns_all and rope.get("partial_rotary_factor", 1.0) != 1.0:
        part = rope["partial_rotary_factor"]
        raise RefusalError(
            who,
            f"config.json says partial_rotary_factor={part!r} and rope_type={kind!r}, which Hugging Face's model "
            "can't turn",
            "Remove partial_rotary_factor from config.json",
        )
    known = {*rope_keys(reference, kind), "rope_type"}
    return {name: value for name, value in rope.items() if name in known}


def _check(name: str, value: Any, who: str) -> None:
    if name in _NO_NUMBERS:
        return
    if name in _LISTS:
        if not isinstance(value, (list, tuple)) or not all(map(is_number, value)):
            _refuse(who, f"rope_parameters.{name}", value, "a list of numbers")
    elif not is_number(value):
        _refuse(who, f"rope_parameters.{name}", value, "a number")
    elif name in _ABOVE_0 and value <= 0:
        _refuse(who, f"rope_parameters.{name}", value, "a number above 0")


def _refuse(who: str, name: str, value: Any, wanted: str) -> NoReturn:
    raise RefusalError(who, f"config.json says {name}={value!r}, which must be {wanted}", "Mend config.json")
