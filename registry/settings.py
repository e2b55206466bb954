"""What the operator asked for: the MSZOO_* environment variables, read and checked once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mszoo.registry.devices import EVERYWHERE, TABLE
from mszoo.registry.errors import SettingsError
from mszoo.registry.validation import NAME

#: What MSZOO_KERNELS may be.
KERNELS = tuple(dict.fromkeys(("auto", EVERYWHERE, *(device.kernels for device in TABLE.values()))))


@dataclass(frozen=True)
class Settings:
    """The settings of one process.

    Args:
        prefer: suite names of MSZOO_PREFER; they come first, in this order.
        disabled_all: MSZOO_DISABLE=1, no plugin is loaded.
        disabled: plugin names of MSZOO_DISABLE; they are not imported.
        kernels: MSZOO_KERNELS; one of :data:`KERNELS`.
        lock: MSZOO_LOCK, absolute; the lock file to enforce, or None.
        plugins: MSZOO_PLUGINS; plugins that are not packaged: modules, and absolute paths of files and folders.
    """

    prefer: tuple[str, ...] = ()
    disabled_all: bool = False
    disabled: frozenset[str] = frozenset()
    kernels: str = "auto"
    lock: Path | None = None
    plugins: tuple[str, ...] = ()

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings; lists are separated by commas, blanks around names are ignored.

        Raises:
            SettingsError: a variable holds a value that it doesn't allow.
        """
        disable = environ.get("MSZOO_DISABLE", "").strip()
        lock = environ.get("MSZOO_LOCK", "").strip()
        disabled_all = disable.lower() in ("1", "true")
        none_disabled = disabled_all or disable.lower() in ("0", "false")
        return cls(
            prefer=_suites(environ.get("MSZOO_PREFER", "")),
            disabled_all=disabled_all,
            disabled=frozenset() if none_disabled else frozenset(_names(disable)),
            kernels=_kernels(environ.get("MSZOO_KERNELS", "")),
            lock=_path(lock) if lock else None,
            plugins=tuple(map(_module, _names(environ.get("MSZOO_PLUGINS", "")))),
        )


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _suites(text: str) -> tuple[str, ...]:
    names = _names(text)
    for name in names:
        if NAME.fullmatch(name) is None:
            raise SettingsError(
                "MSZOO_PREFER", f"{name!r} is not a suite name", "Separate names by commas: mindone,native."
            )
    return names


def _module(text: str) -> str:
    if os.sep in text or text.endswith(".py"):
        return str(_path(text))
    if not all(part.isidentifier() for part in text.split(".")):
        hint = "Name modules, files or folders, separated by commas: my_plugin, ./my_plugin.py."
        raise SettingsError("MSZOO_PLUGINS", f"{text!r} is neither a module nor a path", hint)
    return text


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text)).absolute()


def _kernels(text: str) -> str:
    value = text.strip().lower() or "auto"
    if value not in KERNELS:
        hint = f"Use one of {', '.join(KERNELS)}."
        raise SettingsError("MSZOO_KERNELS", f"{text!r} is not a kernel set", hint)
    return value
