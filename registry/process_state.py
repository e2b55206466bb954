"""What plugins must leave alone in the process: read before their code runs, compared and put back after it."""

from __future__ import annotations

import builtins
import gc
import locale
import logging
import os
import resource
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import is_
from typing import Any

from mszoo.registry.text import printable

_ABSENT = object()
_OPERATORS_OWN = ("MSZOO_", "VLLM_")
_SHOWN = 5
_PLAIN = (str, int, float, bool, frozenset)

Parts = Mapping[Any, Any]


@dataclass(frozen=True)
class Trace:
    """Something that a plugin's code did to the process: a clause in the past tense, and how to mend it."""

    what: str
    hint: str


@dataclass(frozen=True)
class Kept:
    """Something of the process that plugins must leave alone.

    Args:
        what: in words; empty where the names of the parts are the words.
        read: gives its parts by name; they are compared by identity, and by value where they are plain.
        restore: takes what ``read`` gave before, and the names of the parts that changed.
        hint: how a plugin's author mends it.
        libraries: large libraries change it too when they are imported, and need it changed.
        may_grow: further parts are no change.
    """

    what: str
    read: Callable[[], Parts]
    restore: Callable[[Parts, list[Any]], None]
    hint: str
    libraries: bool = False
    may_grow: bool = False

    def changed(self, before: Parts) -> list[Any]:
        """Return the names of the parts that differ from what they were."""
        now = self.read()
        # As it was, as most always: by identity alone, since a plugin's objects may say anything.
        if (
            len(now) == len(before)
            and all(map(is_, now, before))
            and all(map(is_, now.values(), before.values()))
        ):
            return []
        found = [name for name, part in before.items() if now.get(name, _ABSENT) is not part]
        found = [name for name in found if not _same(before[name], now.get(name, _ABSENT))]
        if not self.may_grow and len(now) != len(before) - sum(name not in now for name in found):
            found += now.keys() - before.keys()
        return sorted(found, key=str)

    def undo(self, before: Parts) -> Trace | None:
        """Put back what it was, and say what was changed; None if nothing was."""
        left = changed = self.changed(before)
        if not changed:
            return None
        try:
            self.restore(before, changed)
            left = self.changed(before)
        except Exception:  # of whatever the system raises: a limit that may only go down, another thread
            left = changed
        names = [printable(str(name), 80) for name in changed]
        what = self.what or ", ".join(names[:_SHOWN])
        if not self.what and names[_SHOWN:]:
            what += f" and {len(names) - _SHOWN} more"
        return Trace(f"changed {what}, which {'could not be' if left else 'was'} undone", self.hint)


def _same(one: Any, other: Any) -> bool:
    """Compare without asking an object of a plugin's, which may say anything."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if type(one) in (tuple, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) in _PLAIN and bool(one == other)


def _folder() -> Parts:
    try:
        return {"": os.getcwd()}
    except OSError:  # it was removed
        return {"": None}


def _restore_folder(before: Parts, changed: list[Any]) -> None:
    os.chdir(before[""])


_environ = os.environ  # the plugin may put another object there


def _operators_own() -> Parts:
    return {name: value for name, value in _environ.items() if name.startswith(_OPERATORS_OWN)}


def _other_variables() -> Parts:
    return {name: value for name, value in _environ.items() if not name.startswith(_OPERATORS_OWN)}


def _restore_variables(before: Parts, changed: list[Any]) -> None:
    for name in changed:
        if name in before:
            _environ[name] = before[name]
        else:
            _environ.pop(name, None)


#: Those that something may be done about.
_NUMBERS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP} - set(range(32, 65)))


def _signals() -> Parts:
    found: dict[Any, Any] = {number: signal.getsignal(number) for number in _NUMBERS}
    found["mask"] = frozenset(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    found["alarm"] = bool(signal.getitimer(signal.ITIMER_REAL)[0])
    return found


def _restore_signals(before: Parts, changed: list[Any]) -> None:
    for name in changed:
        if name == "mask":
            signal.pthread_sigmask(signal.SIG_SETMASK, before[name])
        elif name == "alarm":
            signal.setitimer(signal.ITIMER_REAL, 0)
        else:
            signal.signal(name, before[name])


def _list(module: Any, name: str, hint: str) -> Kept:
    """Return a list that is an attribute of a module."""

    def read() -> Parts:
        found = getattr(module, name, None)
        return {"list": found, "items": list(found) if type(found) is list else None}

    def restore(before: Parts, changed: list[Any]) -> None:
        before["list"][:] = before["items"]
        setattr(module, name, before["list"])

    return Kept(f"{module.__name__}.{name}", read, restore, hint, libraries=True)


_HOOKS = (
    (sys, "excepthook"),
    (sys, "unraisablehook"),
    (sys, "displayhook"),
    (sys, "breakpointhook"),
    (threading, "excepthook"),
    (warnings, "showwarning"),
    (os, "environ"),
)


def _hooks() -> Parts:
    found = {f"{module.__name__}.{name}": getattr(module, name, None) for module, name in _HOOKS}
    return found | {"sys.settrace": sys.gettrace(), "sys.setprofile": sys.getprofile()}


def _restore_hooks(before: Parts, changed: list[Any]) -> None:
    for module, name in _HOOKS:
        setattr(module, name, before[f"{module.__name__}.{name}"])
    if "sys.settrace" in changed:
        sys.settrace(before["sys.settrace"])
    if "sys.setprofile" in changed:
        sys.setprofile(before["sys.setprofile"])


def _builtins() -> Parts:
    return dict(vars(builtins))


def _restore_builtins(before: Parts, changed: list[Any]) -> None:
    vars(builtins).update(before)


def _modules() -> Parts:
    return dict(sys.modules)


def _restore_modules(before: Parts, changed: list[Any]) -> None:
    sys.modules.update({name: before[name] for name in changed})


_LIMITS = {name: getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}


def _limits() -> Parts:
    return {name: resource.getrlimit(number) for name, number in _LIMITS.items()}


def _restore_limits(before: Parts, changed: list[Any]) -> None:
    for name in changed:
        resource.setrlimit(_LIMITS[name], before[name])


def _scheduling() -> Parts:
    return {
        "the cores": frozenset(os.sched_getaffinity(0)),
        "the priority": os.getpriority(os.PRIO_PROCESS, 0),
    }


def _restore_scheduling(before: Parts, changed: list[Any]) -> None:
    os.sched_setaffinity(0, before["the cores"])
    os.setpriority(os.PRIO_PROCESS, 0, before["the priority"])


def _interpreter() -> Parts:
    return {
        "switch interval": sys.getswitchinterval(),
        "digits": getattr(sys, "get_int_max_str_digits", int)(),
        "garbage collection": gc.isenabled(),
        "locale": locale.setlocale(locale.LC_ALL),
        "umask": _umask(),
    }


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _restore_interpreter(before: Parts, changed: list[Any]) -> None:
    sys.setswitchinterval(before["switch interval"])
    if before["digits"]:
        sys.set_int_max_str_digits(before["digits"])
    (gc.enable if before["garbage collection"] else gc.disable)()
    locale.setlocale(locale.LC_ALL, before["locale"])
    os.umask(before["umask"])


def _recursion() -> Parts:
    return {"": sys.getrecursionlimit()}


def _restore_recursion(before: Parts, changed: list[Any]) -> None:
    sys.setrecursionlimit(before[""])


def _loggers() -> dict[str, logging.Logger]:
    """Return the loggers whose silence would be ours or vLLM's."""
    existing = logging.root.manager.loggerDict
    own = {
        name: item
        for name, item in existing.copy().items()
        if name.partition(".")[0] in ("mszoo", "vllm") and isinstance(item, logging.Logger)
    }
    return {"": logging.root, **own}


def _logging() -> Parts:
    found: dict[str, Any] = {
        name: (item.level, tuple(item.handlers), item.disabled, item.propagate)
        for name, item in _loggers().items()
    }
    return found | {"disable": logging.root.manager.disable}


def _restore_logging(before: Parts, changed: list[Any]) -> None:
    logging.disable(before["disable"])
    for name, item in _loggers().items():
        if name in changed:
            level, handlers, disabled, propagate = before[name]
            item.setLevel(level)
            item.handlers[:] = handlers
            item.disabled, item.propagate = disabled, propagate


_LEAVE = "Leave it as it is."
KEPT = (
    Kept("the working directory", _folder, _restore_folder, "Remove the os.chdir()."),
    Kept("", _operators_own, _restore_variables, "Leave vLLM's and mszoo's variables to the operator."),
    Kept("", _hooks, _restore_hooks, _LEAVE),
    Kept(
        "",
        _other_variables,
        _restore_variables,
        "Set them where the model is built, if at all.",
        libraries=True,
    ),
    Kept("signal handling", _signals, _restore_signals, "Leave signals to the server."),
    _list(sys, "path", "Install what is to be imported."),
    _list(sys, "meta_path", "Install what is to be imported."),
    _list(sys, "path_hooks", "Install what is to be imported."),
    _list(warnings, "filters", "Use warnings.catch_warnings() around what warns."),
    Kept("the recursion limit", _recursion, _restore_recursion, _LEAVE, libraries=True),
    Kept("", _limits, _restore_limits, "Leave the limits of the process to the operator."),
    Kept("", _scheduling, _restore_scheduling, "Leave the cores to the operator and to vLLM."),
    Kept("", _interpreter, _restore_interpreter, _LEAVE),
    Kept("logging", _logging, _restore_logging, "Configure a logger of your own name alone.", may_grow=True),
    Kept("names of Python's builtins", _builtins, _restore_builtins, _LEAVE, may_grow=True),
    Kept(
        "modules that others had imported",
        _modules,
        _restore_modules,
        "Leave sys.modules alone.",
        may_grow=True,
    ),
)
