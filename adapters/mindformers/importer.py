"""Imports MindSpore Transformers with what inference needs, without its training and evaluation dependencies.

The suite's package imports its metrics, datasets and fine-tuning tools together with its models, and with them
packages (330 MB) that inference never uses. Where such a package isn't installed, the suite's own import statements
get a stand-in; nothing is put into ``sys.modules``, and no other code's imports change. Every use of a stand-in
beyond naming it is an error that says what is missing.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any, ClassVar

from mszoo.registry.errors import RefusalError

SUITE = "mindformers"
#: What the suite imports and inference never uses.
UNUSED = frozenset(
    [
        "datasets",
        "jieba",
        "mindpet",
        "multiprocess",
        "nltk",
        "pandas",
        "pyarrow",
        "rouge_chinese",
        "tensorboardX",
        "xxhash",
    ]
)


def load(path: str) -> Any:
    """Import ``module:Class`` of the suite, inside :func:`surroundings`.

    Raises:
        RefusalError: the suite can't be imported here.
    """
    module, _, name = path.partition(":")
    try:
        with _suite_imports():
            found = getattr(importlib.import_module(module), name)
            # It prints whole configs. What it warns of is checked field by field (config.py).
            importlib.import_module(f"{SUITE}.tools.logger").get_logger().setLevel(logging.ERROR)
            return found
    except Exception as error:
        raise RefusalError(
            SUITE,
            f"{path} can't be imported ({type(error).__name__}: {error})",
            "Install it anew (pip install --no-deps mindformers==2.1.0 deprecated wrapt), or set "
            "MSZOO_DISABLE=mindformers",
        ) from error


@contextlib.contextmanager
def surroundings() -> Iterator[None]:
    """Give the suite what it expects of its process while it is imported and builds, and restore it.

    That is its environment variables (the classes for inference, run op by op; log files, which it would write
    to ./output), and Python's warnings, which it would send to those files from then on.
    """
    values = {"RUN_MODE": "predict", "ENFORCE_EAGER": "True", "LOCAL_DEFAULT_PATH": _scratch().name}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for the suite's log files; it goes with the process."""
    return tempfile.TemporaryDirectory(prefix="mszoo-mindformers-")


@contextlib.contextmanager
def _suite_imports() -> Iterator[None]:
    """Let this suite's modules, and no others, import stand-ins inside."""
    finder = _SuiteFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _SuiteFinder(MetaPathFinder):
    """Finds the suite's modules as Python does, and gives them an import statement of their own."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's usual spec with our loader; None for every other package."""
        if fullname.partition(".")[0] != SUITE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _SuiteLoader(fullname, spec.loader.get_filename(fullname))
        return spec


class _SuiteLoader(SourceFileLoader):
    """Runs a module of the suite with :func:`_import` for its import statements."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code; Python looks ``import`` up in the module's own builtins."""
        vars(module)["__builtins__"] = vars(builtins) | {"__import__": _import}
        super().exec_module(module)


def _import(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> Any:
    root = name.partition(".")[0]
    if level == 0 and root in UNUSED and importlib.util.find_spec(root) is None:
        return StandIn(name if fromlist else root)
    return builtins.__import__(name, globals, locals, fromlist or (), level)


class StandIn(ModuleType):
    """Stands for a package that isn't installed: any of its names can be imported, none can be used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        fields = {"__module__": self.__name__, "package": self.__name__.partition(".")[0]}
        return type(name, (_Missing,), fields)


class _Missing:
    """The base of whatever is imported from a stand-in: it can be subclassed and annotated with."""

    package: ClassVar[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise ImportError(
            f"{self.package} is not installed, and {SUITE} needs it for {type(self).__name__}: "
            f"pip install {self.package}"
        )
