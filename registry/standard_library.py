"""What of Python's standard library plugins must leave alone: its functions, its classes, and its settings."""

from __future__ import annotations

import codecs
import logging
import os
import pathlib
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from mszoo.registry.process_state import Kept, Parts

_LEAVE = "Leave it as it is."
#: What this package and vLLM lean on.
_MODULES = (
    "os",
    "posixpath",
    "sys",
    "json",
    "logging",
    "importlib",
    "importlib.util",
    "importlib.metadata",
    "re",
    "subprocess",
    "tempfile",
    "threading",
    "time",
)
_CLASSES = (pathlib.Path, logging.Logger)
#: Looked at apart, or changed by Python itself.
_OTHERS = frozenset(
    {
        "__stderr__",
        "__stdin__",
        "__stdout__",
        "stderr",
        "stdin",
        "stdout",
        "argv",
        "path",
        "meta_path",
        "path_hooks",
    }
    | {"breakpointhook", "displayhook", "excepthook", "unraisablehook", "environ", "tempdir"}
    | {"last_exc", "last_traceback", "last_type", "last_value"}
)
_ERRORS = ("strict", "ignore", "replace", "surrogateescape", "surrogatepass", "backslashreplace")


def _module(name: str) -> Kept:
    """Return the names of a module, if somebody has imported it. One that is None is set when it is first used."""

    def read() -> Parts:
        found = sys.modules.get(name)
        if type(found) is not ModuleType:
            return {}
        return {key: value for key, value in vars(found).items() if value is not None and key not in _OTHERS}

    def restore(before: Parts, changed: list[Any]) -> None:
        vars(sys.modules[name]).update({key: before[key] for key in changed})

    return Kept(f"names of Python's {name}", read, restore, _LEAVE, libraries=True, may_grow=True)


def _class(found: type) -> Kept:
    """Return the attributes of a class."""

    def restore(before: Parts, changed: list[Any]) -> None:
        for name in changed:
            setattr(found, name, before[name])

    name = f"{found.__module__}.{found.__qualname__}"
    return Kept(
        f"attributes of Python's {name}",
        lambda: dict(vars(found)),
        restore,
        _LEAVE,
        libraries=True,
        may_grow=True,
    )


def _ask(module: str, name: str, *arguments: Any) -> Any:
    """Return what a function of a module says, None where nobody has imported that."""
    found: Callable[..., Any] | None = getattr(sys.modules.get(module), name, None)
    return None if found is None else found(*arguments)


def _settings() -> Parts:
    found: dict[Any, Any] = {f"codecs' error handler {name!r}": codecs.lookup_error(name) for name in _ERRORS}
    return found | {
        "the sockets' time limit": _ask("socket", "getdefaulttimeout"),
        "the size of threads' stacks": threading.stack_size(),
        "multiprocessing's start method": _ask("multiprocessing", "get_start_method", True),
    }


def _restore_settings(before: Parts, changed: list[Any]) -> None:
    for name in _ERRORS:
        codecs.register_error(name, before[f"codecs' error handler {name!r}"])
    threading.stack_size(before["the size of threads' stacks"])
    _ask("socket", "setdefaulttimeout", before["the sockets' time limit"])
    if "multiprocessing's start method" in changed:
        _ask("multiprocessing", "set_start_method", before["multiprocessing's start method"], True)


def _arguments() -> Parts:
    return {"list": sys.argv, "items": tuple(sys.argv) if type(sys.argv) is list else None}


def _restore_arguments(before: Parts, changed: list[Any]) -> None:
    before["list"][:] = before["items"]
    sys.argv = before["list"]


#: As :data:`mszoo.registry.process_state.KEPT`.
KEPT = (
    Kept("sys.argv", _arguments, _restore_arguments, _LEAVE),
    Kept("", _settings, _restore_settings, _LEAVE, libraries=True),
    *map(_module, _MODULES),
    *map(_class, _CLASSES),
)


def leave_behind(thread: threading.Thread) -> None:
    """Let Python end without waiting for a thread, as for a daemon: one may never end."""
    if thread.daemon:
        return
    # Python has no way to say so of a thread that runs. Where a Python keeps it otherwise, it is waited for.
    getattr(threading, "_shutdown_locks", set()).discard(getattr(thread, "_tstate_lock", None))
    of_pools = getattr(sys.modules.get("concurrent.futures.thread"), "_threads_queues", None)
    if of_pools is not None:
        of_pools.pop(thread, None)


def has_children() -> bool:
    """Say whether this process has children."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
