"""What the operator asked for: the MSZOO_* environment variables, read and checked once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mszoo.registry.devices import EVERYWHERE, TABLE
from mszoo.registry.errors import SettingsError
from mszoo.registry.validation import NAME

#: What MSZOO_KERNELS may be, beside the kernel sets of suites, which the catalog knows.
KERNELS = tuple(dict.fromkeys(("auto", EVERYWHERE, *(device.kernels for device in TABLE.values()))))
VARIABLES = ("MSZOO_DISABLE", "MSZOO_KERNELS", "MSZOO_LOCK", "MSZOO_PLUGINS", "MSZOO_PREFER")
_PREFIX = "MSZOO_"
_NEAR = 0.75  # of what follows the prefix: a plugin's own MSZOO_ACME_LOCK is no slip


@dataclass(frozen=True)
class Settings:
    """The settings of one process.

    Args:
        prefer: suite names of MSZOO_PREFER; they come first, in this order.
        disabled_all: MSZOO_DISABLE=1, no plugin is loaded.
        disabled: plugin names of MSZOO_DISABLE; they are not imported.
        kernels: MSZOO_KERNELS; one of :data:`KERNELS`, or the name of a suite's kernel set.
        lock: MSZOO_LOCK, absolute; the lock file to enforce, or None.
        plugins: MSZOO_PLUGINS; plugins that are not packaged: modules, and absolute paths of files and folders.
        mistyped: variables that are none of mszoo's and nearly so, each with what was meant.
    """

    prefer: tuple[str, ...] = ()
    disabled_all: bool = False
    disabled: frozenset[str] = frozenset()
    kernels: str = "auto"
    lock: Path | None = None
    plugins: tuple[str, ...] = ()
    mistyped: tuple[tuple[str, str], ...] = ()

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
            mistyped=_mistyped(environ),
        )


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def nearest_variable(name: str) -> str | None:
    """Return the variable of mszoo's that was likely meant, or None."""
    import difflib  # here: every process reads settings, and few mistype them

    known = [item.removeprefix(_PREFIX) for item in VARIABLES]
    found = difflib.get_close_matches(name.removeprefix(_PREFIX), known, n=1, cutoff=_NEAR)
    return _PREFIX + found[0] if found else None


def _mistyped(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    names = sorted(name for name in environ if name.startswith(_PREFIX) and name not in VARIABLES)
    return tuple((name, meant) for name in names if (meant := nearest_variable(name)) is not None)


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
    value = text.strip() or "auto"
    if value.lower() in KERNELS:
        return value.lower()
    if NAME.fullmatch(value) is None:
        raise no_kernel_set(text)
    return value


def no_kernel_set(text: str, of_suites: Iterable[str] = ()) -> SettingsError:
    """Return the error of a MSZOO_KERNELS that names no kernel set.

    Args:
        text: what it names.
        of_suites: the kernel sets of suites.
    """
    import difflib  # here: every process reads settings, and few mistype them

    known = (*KERNELS, *of_suites)
    nearest = difflib.get_close_matches(text.lower(), known, n=1)
    meant = f"Did you mean {nearest[0]}? " if nearest else ""
    hint = f"{meant}Use one of {', '.join(known)}."
    return SettingsError("MSZOO_KERNELS", f"{text!r} is not a kernel set", hint)
