"""Compares what mszoo leans on in vLLM with one version's sources."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from mszoo.registry.inventory.source import Source
from mszoo.registry.inventory.symbols import Package, Symbol


@dataclass(frozen=True)
class Lack:
    """Something that a vLLM hasn't.

    Attributes:
        feature: what it serves, a key of the inventory's features.
        required: whether mszoo installs nothing without it.
        without: what doesn't work then.
        what: what is lacking.
    """

    feature: str
    required: bool
    without: str
    what: str


@dataclass(frozen=True)
class Report:
    """The result of a check.

    Attributes:
        version: of the vLLM, as its metadata say; None without metadata.
        lacks: what it hasn't; of several alternatives one is enough.
        ops_checked: whether it has compiled ops for CPU to compare with.
    """

    version: str | None
    lacks: tuple[Lack, ...]
    ops_checked: bool

    @property
    def is_usable(self) -> bool:
        """Whether nothing that is required is lacking."""
        return not any(lack.required for lack in self.lacks)


_TEXTS = 1 << 20


@cache
def inventory() -> dict[str, Any]:
    """Return the generated inventory: ``features``, ``needs`` and ``ops``.

    A feature has ``required`` and ``without`` (see :class:`Lack`). A need has the ``feature`` that it serves, the
    files of mszoo that use it (``used_by``), and alternatives (``any_of``), each with ``symbol``
    (``module:Name.attribute``) and the ``calls`` that mszoo makes of it: how many arguments by position
    (``positional``), and the ``keywords``. An op has its ``feature`` and the ``forms`` of its call.
    """
    text = files(__package__).joinpath("inventory.json").read_text("utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


def check(source: Source) -> Report:
    """Compare vLLM's sources, and its compiled ops where it has any, with the inventory."""
    package = Package(source)
    features = inventory()["features"]
    found: dict[Lack, None] = {}

    def note(feature: str, what: str) -> None:
        known = features[feature]
        found.setdefault(Lack(feature, known["required"], known["without"], what))

    for need in inventory()["needs"]:
        complaints = [complaint(package, option) for option in need["any_of"]]
        if all(complaints):
            note(need["feature"], "; nor: ".join(filter(None, complaints)))
    schemas = _schemas(source)
    if schemas is not None:
        for name, op in inventory()["ops"].items():
            what = _op_complaint(name, op["forms"], schemas)
            if what:
                note(op["feature"], what)
    lacks = sorted(found, key=lambda lack: (not lack.required, lack.feature))
    return Report(source.version, tuple(lacks), schemas is not None)


def complaint(package: Package, option: dict[str, Any]) -> str | None:
    """Return what the package lacks of one alternative of a need, or None."""
    module, _, path = option["symbol"].partition(":")
    names = path.split(".")
    found = package.find(module, names[0])
    if found is None:
        return f"{module} has no {names[0]}"
    for name in names[1:]:
        if found.node is None or (not found.is_class and package.type_of(found) is None):
            return None  # defined by another package, or of a type that the source doesn't tell
        owner = found if found.is_class else package.type_of(found)
        assert owner is not None
        found = package.member(owner, name)
        if found is None:
            return f"{_name_of(owner)} has no {name}"
    return next(_call_complaints(package, found, option), None)


def _name_of(owner: Symbol) -> str:
    return str(getattr(owner.node, "name", ""))


def _call_complaints(package: Package, symbol: Symbol, option: dict[str, Any]) -> Iterator[str]:
    calls = option.get("calls", ())
    signature = package.signature(symbol) if calls else None
    if signature is None:
        return
    for call in calls:
        for what in signature.complaints(call["positional"], call["keywords"]):
            yield f"{option['symbol'].partition(':')[2]} {what}"


def _schemas(source: Source) -> dict[str, list[list[tuple[str, bool]]]] | None:
    """Return the arguments of ops by name, each with whether it has a default; None without ops for CPU."""
    for data in source.libraries():
        at = data.find(b"cpu_attention_with_kv_cache(")
        if at < 0:
            at = data.find(b"onednn_mm(")
        if at < 0:
            continue
        # A library's texts lie together; its code, a hundred times as long, needn't be searched.
        texts = data[max(0, at - _TEXTS) : at + _TEXTS]
        return {name: found for name in inventory()["ops"] if (found := _schemas_of(name, texts))}
    return None


def _schemas_of(name: str, texts: bytes) -> list[list[tuple[str, bool]]]:
    """Find an op's schemas: ``name(Tensor x, float y=1.0) -> ...``."""
    found = []
    for match in re.finditer(name.encode() + rb"\(([ -~]*)\) -> [ -~]*\0", texts):
        if not texts[match.start() - 1 : match.start()].strip(b"\0"):
            found.append([_argument(item) for item in match[1].decode().split(", ")])
    return found


def _argument(text: str) -> tuple[str, bool]:
    declaration, _, default = text.partition("=")
    return declaration.split()[-1], bool(default)


def _op_complaint(
    name: str, forms: list[list[str]], schemas: dict[str, list[list[tuple[str, bool]]]]
) -> str | None:
    for schema in schemas.get(name, ()):
        names = [argument for argument, _ in schema]
        for form in forms:
            if names[: len(form)] == form and all(default for _, default in schema[len(form) :]):
                return None
    if name not in schemas:
        return f"there is no op {name}"
    taken = ", ".join(argument for argument, _ in schemas[name][0])
    return f"op {name} takes ({taken})"
