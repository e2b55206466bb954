"""Imports single modeling files of MindSpore One under the installed transformers and MindSpore, changing neither.

MindSpore One 0.5 is written for transformers 4.57 and for Ascend, and its packages' ``__init__`` import hundreds of
families. A finder on ``sys.meta_path`` loads its files as they are, with two differences: the four outer packages
are empty shells, and ``import`` in its files gives, to them and to nobody else, the few names of :data:`DROPPED`
and :data:`NO_CPU_KERNEL`. No module of another package is assigned to.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import pkgutil
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any

from mszoo.registry.errors import MszooError

_COMPAT = "mszoo.adapters.mindone.compat"
_CPU = "mszoo.adapters.mindone.cpu_ops"

#: By module and name: what MindSpore One's files get for names that transformers 5 dropped or changed.
DROPPED: Mapping[str, Mapping[str, str]] = {
    "transformers": {},
    "transformers.generation.beam_constraints": {
        "Constraint": f"{_COMPAT}:Unused",
        "ConstraintListState": f"{_COMPAT}:Unused",
    },
    "transformers.tokenization_utils": {
        "ExtensionsTrie": f"{_COMPAT}:Unused",
        "TOKENIZER_CONFIG_FILE": f"{_COMPAT}:TOKENIZER_CONFIG_FILE",
    },
    "transformers.utils": {
        "auto_docstring": f"{_COMPAT}:auto_docstring",
        "download_url": f"{_COMPAT}:refuse_download",
        "is_offline_mode": f"{_COMPAT}:yes",
        "is_remote_url": f"{_COMPAT}:no",
        "is_safetensors_available": f"{_COMPAT}:yes",
        "FLAX_WEIGHTS_NAME": f"{_COMPAT}:FLAX_WEIGHTS_NAME",
        "TF2_WEIGHTS_NAME": f"{_COMPAT}:TF2_WEIGHTS_NAME",
        "TF_WEIGHTS_NAME": f"{_COMPAT}:TF_WEIGHTS_NAME",
    },
}

#: By module and name: MindSpore functions without a CPU kernel that networks call, and ours.
NO_CPU_KERNEL: Mapping[str, Mapping[str, str]] = {
    "mindspore": {},
    "mindspore.mint": {
        name: f"{_CPU}:{name}"
        for name in ("arange", "argsort", "einsum", "full", "repeat_interleave", "tril")
    },
    "mindspore.mint.nn": {"GELU": f"{_CPU}:GELU"},
    "mindspore.mint.nn.functional": {name: f"{_CPU}:{name}" for name in ("gelu", "pad")},
}

#: Packages whose ``__init__`` doesn't run.
SHELLS = frozenset({"mindone", "mindone.models", "mindone.transformers", "mindone.transformers.models"})

#: The transformers that MindSpore One 0.5 is written for.
WRITTEN_FOR = "4.57.1"


class SuiteImportError(MszooError):
    """A file of MindSpore One can't be imported here."""


def modeling(family: str) -> types.ModuleType:
    """Import ``mindone.transformers.models.<family>.modeling_<family>``.

    Raises:
        SuiteImportError: there is no such file, or it needs what neither the stack nor the tables have.
    """
    name = f"models.{family}.modeling_{family}"
    try:
        return load(name)
    except Exception as error:
        raise SuiteImportError(
            f"mindone family {family!r}",
            f"mindone.transformers.{name} can't be imported ({type(error).__name__}: {error})",
            "Install a version of mindone that mszoo supports, or serve the model with another implementation",
        ) from error


def load(name: str) -> types.ModuleType:
    """Import a module of ``mindone.transformers``."""
    _install()
    return importlib.import_module(f"mindone.transformers.{name}")


@functools.cache
def fields_read(module: types.ModuleType) -> frozenset[str]:
    """Return the fields that the source of a module reads off what it calls a config."""
    found = set()
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
            if name.endswith("config"):
                found.add(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
            found |= {str(item.value) for item in node.args[1:2] if isinstance(item, ast.Constant)}
    return frozenset(found)


@functools.cache
def _install() -> None:
    import mindspore as ms

    on_cpu = ms.get_context("device_target") == "CPU"
    sys.meta_path.insert(0, Finder({**DROPPED, **NO_CPU_KERNEL} if on_cpu else DROPPED))


class Finder(MetaPathFinder):
    """Finds MindSpore One's modules where Python finds them, and runs them with an ``import`` of ours.

    Args:
        given: by module and name, what to give instead, as ``module:object``.
    """

    def __init__(self, given: Mapping[str, Mapping[str, str]]) -> None:
        self._given = given
        self._views: dict[str, _View] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """See :meth:`importlib.abc.MetaPathFinder.find_spec`."""
        if name.partition(".")[0] != "mindone":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(name, spec.loader.path, self._import)
        return spec

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        """Stand for ``__import__`` in MindSpore One's files; the arguments are its own."""
        if level == 0 and fromlist and name in self._given:
            return self._view(name)
        found = builtins.__import__(name, globals, locals, fromlist or (), level)
        top = name.partition(".")[0]
        return self._view(top) if level == 0 and not fromlist and top in self._given else found

    def _view(self, name: str) -> _View | None:
        if name in self._given and name not in self._views:
            self._views[name] = _View(name, self._given[name], self._view)
        return self._views.get(name)


class _Loader(SourceFileLoader):
    """Runs a file with another ``__import__`` among its builtins, and a shell not at all."""

    def __init__(self, name: str, path: str, import_: Callable[..., Any]) -> None:
        super().__init__(name, path)
        self._import = import_

    def exec_module(self, module: types.ModuleType) -> None:
        """See :meth:`importlib.abc.Loader.exec_module`."""
        if module.__name__ in SHELLS:
            vars(module)["__version__"] = WRITTEN_FOR
            return
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": self._import}
        super().exec_module(module)


class _View(types.ModuleType):
    """What MindSpore One's files see in place of a module: names that are given, else the module's own."""

    def __init__(self, name: str, given: Mapping[str, str], view: Callable[[str], _View | None]) -> None:
        super().__init__(name)
        self._given, self._view = given, view

    def __getattr__(self, name: str) -> Any:
        if name in self._given:
            found = pkgutil.resolve_name(self._given[name])
        else:
            found = self._view(f"{self.__name__}.{name}")
        if found is None:
            try:
                found = getattr(importlib.import_module(self.__name__), name)
            except ModuleNotFoundError as error:  # transformers dropped the whole module
                raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from error
        setattr(self, name, found)
        return found
