"""The lock file: which plugins may be loaded, what their code is and what was decided, as JSON.

Reading one runs nothing. It looks like this, with sorted keys, so that versions of it compare well::

    {
      "format": "mszoo-lock",
      "version": 2,
      "mszoo": "0.1.0",
      "device": "cpu",
      "digest": "1ad0bc633703",
      "settings": {"kernels": "auto", "prefer": []},
      "requires": {"mindone": "0.4.0"},
      "plugins": {
        "native": {
          "distribution": "mszoo",
          "version": "0.1.0",
          "entry_point": "mszoo.adapters.native",
          "modules": {"mszoo.adapters.native": "sha256:...", "mszoo.models.llama": "sha256:..."}
        }
      },
      "code": {"mszoo": {"mszoo.adapters": "sha256:...", "mszoo.adapters.native": "sha256:..."}},
      "models": {"LlamaForCausalLM": [{"adapter": "native.LlamaForCausalLM", "code": "mszoo.models.llama:..."}]},
      "layers": {},
      "ops": {}
    }

``plugins`` is an allow-list; ``modules`` of a plugin are the hashes of the modules that its entry point and its
chosen adapters name, whoever gives them (null: not found). ``code`` holds, of each distribution of a plugin and of
mszoo, the hashes of all modules by name, "namespace" for a package without code, and of other files of code by
path; ``requires`` the versions of the distributions that the chosen adapters need. Decisions list the adapters that
may serve, first the winner, then its fallbacks.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mszoo.registry.errors import LockError
from mszoo.registry.files import write_whole
from mszoo.registry.json_text import LARGEST_INDEX, NotJsonError, parse_json, read_file
from mszoo.registry.text import shown

FORMAT = "mszoo-lock"
VERSION = 2
_FOREIGN = "Give a file that `mszoo lock` wrote."


@dataclass(frozen=True)
class LockedPlugin:
    """One plugin that may be loaded, and the hashes of its code; see the module's docstring."""

    distribution: str
    version: str
    entry_point: str
    modules: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class LockedAdapter:
    """One adapter of a decision: its qualified name, and the code that it names."""

    adapter: str
    code: str


LockedDecisions = Mapping[str, tuple[LockedAdapter, ...]]


@dataclass(frozen=True)
class Lock:
    """What a lock file holds; see the module's docstring."""

    mszoo: str
    device: str
    digest: str
    kernels: str = "auto"
    prefer: tuple[str, ...] = ()
    requires: Mapping[str, str | None] = field(default_factory=dict)
    plugins: Mapping[str, LockedPlugin] = field(default_factory=dict)
    code: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    models: LockedDecisions = field(default_factory=dict)
    layers: LockedDecisions = field(default_factory=dict)
    ops: LockedDecisions = field(default_factory=dict)

    def lists(self, name: str, distribution: str) -> bool:
        """Say whether the plugin of this name in this distribution may be loaded."""
        return name in self.plugins and self.plugins[name].distribution == distribution

    def to_json(self) -> dict[str, Any]:
        """Return what goes into the file."""
        fields = dataclasses.asdict(self)
        settings = {"kernels": fields.pop("kernels"), "prefer": list(fields.pop("prefer"))}
        for kind in ("models", "layers", "ops"):
            fields[kind] = {name: list(chain) for name, chain in fields[kind].items()}
        return {"format": FORMAT, "version": VERSION, **fields, "settings": settings}

    def dumps(self) -> str:
        """Return the text of the file: plain ASCII, sorted keys, one line feed at its end."""
        return json.dumps(self.to_json(), indent=2, sort_keys=True) + "\n"

    def write(self, path: Path) -> None:
        """Write the file whole or not at all: what was there stays until the new one is complete.

        Raises:
            LockError: it can't be written.
        """
        write_whole(path, self.dumps(), LockError)


def read_lock(path: Path) -> Lock:
    """Read a lock file.

    Raises:
        LockError: it is missing, unreadable, damaged, or no lock file of this version.
    """
    try:
        text = read_file(path, LARGEST_INDEX).decode("utf-8")
    except UnicodeDecodeError as error:
        raise LockError(str(path), "is not text, so it is no lock file", _FOREIGN) from error
    except NotJsonError as error:  # a device or pipe would never end
        what = f"is no lock file: {error}"
        raise LockError(str(path), what, _FOREIGN) from error
    except OSError as error:
        why = error.strerror or error
        what = "doesn't exist" if isinstance(error, FileNotFoundError) else f"can't be read ({why})"
        raise LockError(str(path), what, f"Write one with `mszoo lock {shlex.quote(str(path))}`.") from error
    return parse_lock(text, str(path))


def parse_lock(text: str, who: str) -> Lock:
    """Parse the text of a lock file.

    Args:
        text: the whole file.
        who: its name, for messages.

    Raises:
        LockError: it is damaged, or no lock file of this version.
    """
    try:
        content = parse_json(text, _no_repeats)
    except NotJsonError as error:
        raise LockError(who, f"is damaged: it is not valid JSON ({error})", _rewrite(who)) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise LockError(who, "is not a lock file of mszoo", _FOREIGN)
    if content.get("version") != VERSION:
        what = f"has version {shown(content.get('version'))}, and this mszoo reads version {VERSION}"
        raise LockError(who, what, _rewrite(who))
    try:
        return _lock(content)
    except _Malformed as error:
        raise LockError(who, f"is damaged: {error}", _rewrite(who)) from error


class _Malformed(ValueError):
    """A field holds what it can't hold; the text says where and what."""


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        repeated = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{shown(repeated)} is given twice")
    return result


def _lock(content: dict[str, Any]) -> Lock:
    names = {item.name for item in dataclasses.fields(Lock)} - {"kernels", "prefer"}
    fields = _fields(content, "", {"format", "version", "settings", *names})
    settings = _fields(fields["settings"], "settings", {"kernels", "prefer"})
    if not isinstance(settings["prefer"], list):
        raise _Malformed("settings.prefer is not a list")
    return Lock(
        mszoo=_text(fields["mszoo"], "mszoo"),
        device=_text(fields["device"], "device"),
        digest=_text(fields["digest"], "digest"),
        kernels=_text(settings["kernels"], "settings.kernels"),
        prefer=tuple(_text(item, "settings.prefer") for item in settings["prefer"]),
        requires=_texts(fields["requires"], "requires"),
        plugins={
            name: _plugin(value, f"plugins.{name}") for name, value in _items(fields["plugins"], "plugins")
        },
        code={
            name: {
                module: _text(text, f"code.{name}.{module}")
                for module, text in _items(hashes, f"code.{name}")
            }
            for name, hashes in _items(fields["code"], "code")
        },
        models=_decisions(fields["models"], "models"),
        layers=_decisions(fields["layers"], "layers"),
        ops=_decisions(fields["ops"], "ops"),
    )


def _plugin(value: object, where: str) -> LockedPlugin:
    fields = _fields(value, where, {item.name for item in dataclasses.fields(LockedPlugin)})
    modules = _texts(fields.pop("modules"), f"{where}.modules")
    return LockedPlugin(
        **{name: _text(text, f"{where}.{name}") for name, text in fields.items()}, modules=modules
    )


def _decisions(value: object, where: str) -> LockedDecisions:
    return {name: _chain(chain, f"{where}.{name}") for name, chain in _items(value, where)}


def _chain(value: object, where: str) -> tuple[LockedAdapter, ...]:
    if not isinstance(value, list):
        raise _Malformed(f"{where} is not a list")
    chain = []
    for item in value:
        fields = _fields(item, where, {"adapter", "code"})
        chain.append(LockedAdapter(_text(fields["adapter"], where), _text(fields["code"], where)))
    return tuple(chain)


def _fields(value: object, where: str, names: set[str]) -> dict[str, Any]:
    """Return an object that has exactly these fields."""
    found = dict(_items(value, where))
    dot = f"{where}." if where else ""
    for name in sorted(names - found.keys()):
        raise _Malformed(f"{dot}{name} is missing")
    for name in sorted(found.keys() - names):
        raise _Malformed(f"{dot}{name} is not a field of a lock file")
    return found


def _items(value: object, where: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise _Malformed(f"{where} is not an object")
    return list(value.items())


def _texts(value: object, where: str) -> dict[str, str | None]:
    return {
        name: None if text is None else _text(text, f"{where}.{name}") for name, text in _items(value, where)
    }


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _Malformed(f"{where} is {shown(value)} instead of a string")
    return value


def _rewrite(who: str) -> str:
    return f"Write it again with `mszoo lock {shlex.quote(who)}`."
