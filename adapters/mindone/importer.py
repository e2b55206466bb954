"""Imports single modeling files of MindSpore One under the installed transformers and MindSpore, changing neither.

MindSpore One 0.5 is written for transformers 4.57 and for Ascend. Its files are compiled here with an import
function of ours, which gives them, and nobody else, what they lack: names that transformers 5 dropped, and on CPU
the MindSpore functions that have no CPU kernel. The tables below say what is given. Nothing stays in
``sys.modules``, and no module of another package is assigned to; the packages' own ``__init__``, which import
hundreds of families, don't run.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mszoo.adapters.mindone import eager
from mszoo.registry.errors import MszooError

_COMPAT = "mszoo.adapters.mindone.compat"
_CPU = "mszoo.adapters.mindone.cpu_ops"

#: By module and name: what MindSpore One's files get for names that transformers 5 dropped or changed.
DROPPED: Mapping[str, Mapping[str, str]] = {
    "transformers": {
        "is_safetensors_available": f"{_COMPAT}:yes",
    },
    "transformers.configuration_utils": {"WatermarkingConfig": f"{_COMPAT}:Unused"},
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
    "transformers.utils.generic": {"OutputRecorder": f"{_COMPAT}:Unused"},
    "transformers.utils.args_doc": {"auto_docstring": f"{_COMPAT}:auto_docstring"},
}


def _from_cpu(*names: str) -> dict[str, str]:
    return {name: f"{_CPU}:{name}" for name in names}


#: By module and name: MindSpore functions and cells without a CPU kernel, and ours in their place. CPU only.
NO_CPU_KERNEL: Mapping[str, Mapping[str, str]] = {
    "mindspore": {},
    "mindspore.ops": _from_cpu("addmm", "bmm", "matmul", "rms_norm", "stack"),
    "mindspore.mint": _from_cpu(
        "addmm",
        "arange",
        "argmax",
        "argsort",
        "baddbmm",
        "bincount",
        "bmm",
        "cumsum",
        "einsum",
        "full",
        "full_like",
        "histc",
        "index_add",
        "index_select",
        "linspace",
        "matmul",
        "nonzero",
        "norm",
        "ones_like",
        "outer",
        "repeat_interleave",
        "roll",
        "scatter",
        "scatter_add",
        "sort",
        "stack",
        "std",
        "topk",
        "tril",
        "var",
        "where",
        "zeros_like",
    ),
    "mindspore.mint.nn": _from_cpu("Embedding", "GELU", "LayerNorm"),
    "mindspore.mint.nn.functional": _from_cpu(
        "embedding", "gelu", "layer_norm", "linear", "log_softmax", "normalize", "one_hot", "pad", "sigmoid"
    ),
}

#: Methods of tensors without a CPU kernel: calls in MindSpore One's files go to ``cpu_ops.METHODS``. CPU only.
METHODS_WITHOUT_CPU_KERNEL = (
    "addmm",
    "argmax",
    "argsort",
    "bitwise_or",
    "clamp_",
    "clone",
    "cumsum",
    "div",
    "fill_",
    "index_add",
    "index_add_",
    "new_ones",
    "new_zeros",
    "nonzero",
    "normal_",
    "repeat",
    "repeat_interleave",
    "scatter",
    "scatter_",
    "scatter_add",
    "sort",
    "std",
    "topk",
    "tril",
    "trunc_normal_",
    "uniform_",
    "var",
    "zero_",
)

#: Packages whose ``__init__`` doesn't run.
SHELLS = frozenset({"mindone", "mindone.models", "mindone.transformers", "mindone.transformers.models"})

#: The transformers that MindSpore One 0.5 is written for.
WRITTEN_FOR = "4.57.1"

_TORCH = "mszoo.adapters.mindone.torch_ops"
_METHOD, _OR, _ITEM = "__mszoo_method__", "__mszoo_or__", "__mszoo_item__"
_BINARY, _NEGATIVE = "__mszoo_binary__", "__mszoo_negative__"


class SuiteImportError(MszooError):
    """A file of MindSpore One can't be imported here."""


def modeling(family: str) -> types.ModuleType:
    """Import ``mindone.transformers.models.<family>.modeling_<family>``.

    Raises:
        SuiteImportError: there is no such file, or it needs what neither the stack nor the tables have.
    """
    name = f"mindone.transformers.models.{family}.modeling_{family}"
    try:
        return suite().load(name)
    except Exception as error:
        raise SuiteImportError(
            f"mindone family {family!r}",
            f"{name} can't be imported ({type(error).__name__}: {error})",
            "Install a version of mindone that mszoo supports, or serve the model with another implementation",
        ) from error


def suite() -> Suite:
    """Return the process's private copy of MindSpore One, for the device and the kernel set in effect."""
    import mindspore as ms

    from mszoo.kernels import dispatch

    on_cpu = ms.get_context("device_target") == "CPU"
    return _suite(on_cpu, on_cpu and dispatch.current().base == "cpu")


@functools.cache
def _suite(on_cpu: bool, by_torch: bool) -> Suite:
    if not on_cpu:
        return Suite(DROPPED, ())
    if not by_torch:
        return Suite({**DROPPED, **NO_CPU_KERNEL}, METHODS_WITHOUT_CPU_KERNEL)
    from mszoo.adapters.mindone import torch_ops

    ours = {name: f"{_TORCH}:{name}" for name in torch_ops.FUNCTIONS}
    redirects = {
        module: {**names, **(ours if module.startswith("mindspore.mint") else {})}
        for module, names in NO_CPU_KERNEL.items()
    }
    redirects["mindspore.ops"] |= {
        name: path for name, path in ours.items() if name not in torch_ops.DIFFERENT
    }
    return Suite({**DROPPED, **redirects}, (*METHODS_WITHOUT_CPU_KERNEL, *torch_ops.METHODS), by_torch=True)


class Suite:
    """Modules of MindSpore One, loaded from its installed files and kept apart from ``sys.modules``.

    Args:
        redirects: by module and name, what to give instead, as ``module:object``.
        methods: tensor methods whose calls go to ``cpu_ops``, or to ``torch_ops``.
        by_torch: operators and indices go to ``torch_ops``, too.
    """

    def __init__(
        self, redirects: Mapping[str, Mapping[str, str]], methods: Sequence[str], *, by_torch: bool = False
    ) -> None:
        self._redirects, self._methods, self._by_torch = redirects, frozenset(methods), by_torch
        self._modules: dict[str, types.ModuleType] = {}
        self._views: dict[str, _View] = {}
        self._mentioned: dict[str, frozenset[str]] = {}
        spec = importlib.util.find_spec("mindone")
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError("mindone is not installed")
        self._root = Path(next(iter(spec.submodule_search_locations)))

    def load(self, name: str) -> types.ModuleType:
        """Import ``mindone`` or a module below it by its dotted name.

        Raises:
            ModuleNotFoundError: there is no such file.
        """
        if name in self._modules:
            return self._modules[name]
        parent, _, leaf = name.rpartition(".")
        owner = self.load(parent) if parent else None
        if name in self._modules:  # the parent imported it
            return self._modules[name]
        path = self._root.joinpath(*name.split(".")[1:])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not file.is_file():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        module = types.ModuleType(name)
        module.__file__ = str(file)
        module.__package__ = name if path.is_dir() else parent
        if path.is_dir():
            module.__path__ = [str(path)]
        self._modules[name] = module
        try:
            self._execute(module, file)
        except BaseException:
            del self._modules[name]
            raise
        if owner is not None:
            vars(owner)[leaf] = module
        return module

    def mentioned(self, name: str) -> frozenset[str]:
        """Return the attributes and strings in the source of a module: which config fields it may read."""
        if name not in self._mentioned:
            found = set()
            for node in ast.walk(ast.parse(Path(str(self.load(name).__file__)).read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute):
                    found.add(node.attr)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
            self._mentioned[name] = frozenset(found)
        return self._mentioned[name]

    def _execute(self, module: types.ModuleType, file: Path) -> None:
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": self._import}
        if module.__name__ in SHELLS:
            vars(module)["__version__"] = WRITTEN_FOR
            return
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
        family = file.parent.name
        if file.stem == f"modeling_{family}":
            tree = _NoMasks().visit(tree)
            if family in eager.FAMILIES:
                from mszoo.adapters.mindone import attention

                eager.rewrite(tree, family)
                vars(module)[eager.ATTEND] = attention.attend_spelled_out
        if self._methods:
            from mszoo.adapters.mindone import cpu_ops

            vars(module).update({_METHOD: cpu_ops.call_method, _OR: cpu_ops.either, _ITEM: cpu_ops.item})
            rewriter: ast.NodeTransformer = _Calls(self._methods)
            if self._by_torch:
                from mszoo.adapters.mindone import torch_ops

                vars(module).update({_METHOD: torch_ops.call_method, _ITEM: torch_ops.item})
                vars(module).update({_BINARY: torch_ops.binary, _NEGATIVE: torch_ops.negative})
                rewriter = _Operators(self._methods)
            tree = ast.fix_missing_locations(rewriter.visit(tree))
        # Dataclasses look their module up in sys.modules; it is there for no longer than that.
        before = sys.modules.get(module.__name__)
        sys.modules[module.__name__] = module
        try:
            exec(compile(ast.fix_missing_locations(tree), str(file), "exec", dont_inherit=True), vars(module))
        finally:
            del sys.modules[module.__name__]
            if before is not None:
                sys.modules[module.__name__] = before

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        """Stand for ``__import__`` in MindSpore One's files; the arguments are its own."""
        if level:
            package = str((globals or {})["__package__"]).split(".")
            name = ".".join([*package[: len(package) - level + 1], *([name] if name else [])])
        top = name.partition(".")[0]
        if top != "mindone":
            if name not in self._redirects:
                found = builtins.__import__(name, globals, locals, fromlist or (), 0)
                return found if fromlist or top not in self._redirects else self._view(top)
            return self._view(name if fromlist else top)
        module = self.load(name)
        if not fromlist:
            return self.load(top)
        for item in fromlist:
            if item != "*" and not hasattr(module, item) and hasattr(module, "__path__"):
                try:
                    self.load(f"{name}.{item}")
                except ModuleNotFoundError as error:
                    if error.name != f"{name}.{item}":
                        raise
        return module

    def _view(self, name: str) -> _View:
        if name not in self._views:
            self._views[name] = _View(name, self._redirects, self._view)
        return self._views[name]


class _View(types.ModuleType):
    """What MindSpore One's files see in place of a module: the names of the tables, else the module's own."""

    def __init__(self, name: str, redirects: Mapping[str, Mapping[str, str]], view: Any) -> None:
        super().__init__(name)
        try:
            real: types.ModuleType | None = importlib.import_module(name)
        except ModuleNotFoundError:  # transformers dropped the whole module
            real = None
        self.__dict__.update(_real=real, _names=redirects[name], _redirects=redirects, _view=view)

    def __getattr__(self, name: str) -> Any:
        path = self._names.get(name)
        if path is not None:
            module, _, leaf = path.partition(":")
            found = getattr(importlib.import_module(module), leaf)
        elif f"{self.__name__}.{name}" in self._redirects:
            found = self._view(f"{self.__name__}.{name}")
        elif self._real is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        else:
            found = getattr(self._real, name)
            if not isinstance(found, types.ModuleType) or found.__name__ not in self._redirects:
                return found
            found = self._view(found.__name__)  # a module under a second name, as mint.functional
        self.__dict__[name] = found
        return found


class _NoMasks(ast.NodeTransformer):
    """Makes models build no mask of T x T: causality and windows are vLLM's attention's."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Let ``_update_causal_mask`` return None."""
        if node.name == "_update_causal_mask":
            node.body = [ast.copy_location(ast.Return(ast.Constant(None)), node.body[0])]
        return self.generic_visit(node)


class _Calls(ast.NodeTransformer):
    """Turns ``x.method(...)`` of the listed methods, ``x | y`` and ``x[y]`` into calls of ``cpu_ops``."""

    def __init__(self, methods: frozenset[str]) -> None:
        self._methods = methods

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Rewrite a method call."""
        self.generic_visit(node)
        function = node.func
        if not isinstance(function, ast.Attribute) or function.attr not in self._methods:
            return node
        name = ast.Name(_METHOD, ast.Load())
        arguments = [function.value, ast.Constant(function.attr), *node.args]
        return ast.copy_location(ast.Call(name, arguments, node.keywords), node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """Rewrite ``|``."""
        self.generic_visit(node)
        if not isinstance(node.op, ast.BitOr):
            return node
        return ast.copy_location(ast.Call(ast.Name(_OR, ast.Load()), [node.left, node.right], []), node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """Rewrite an index that is read and may be a tensor."""
        self.generic_visit(node)
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        numbers = all(isinstance(part, (ast.Constant, ast.UnaryOp)) for part in parts)
        others = any(isinstance(part, (ast.Slice, ast.Starred)) for part in parts)
        if not isinstance(node.ctx, ast.Load) or numbers or others:
            return node
        return ast.copy_location(ast.Call(ast.Name(_ITEM, ast.Load()), [node.value, node.slice], []), node)


class _Operators(_Calls):
    """Turns operators between what may be tensors, and all indices, into calls of ``torch_ops``, too."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """Rewrite ``+ - * / ** @``."""
        if isinstance(node.op, ast.BitOr):
            return super().visit_BinOp(node)
        self.generic_visit(node)
        return self._binary(node.op, node.left, node.right, node) or node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        """Rewrite ``x += y`` of a variable; MindSpore's tensors aren't changed by it either."""
        self.generic_visit(node)
        if not isinstance(node.target, ast.Name):
            return node
        value = self._binary(node.op, ast.Name(node.target.id, ast.Load()), node.value, node)
        return node if value is None else ast.copy_location(ast.Assign([node.target], value), node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """Rewrite ``-x``."""
        self.generic_visit(node)
        if not isinstance(node.op, ast.USub) or isinstance(node.operand, ast.Constant):
            return node
        return ast.copy_location(ast.Call(ast.Name(_NEGATIVE, ast.Load()), [node.operand], []), node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """Rewrite an index that is read; slices become ``slice(...)``."""
        self.generic_visit(node)
        if not isinstance(node.ctx, ast.Load):
            return node
        index = node.slice
        if isinstance(index, ast.Tuple):
            index = ast.Tuple([_index(part) for part in index.elts], ast.Load())
        return ast.copy_location(ast.Call(ast.Name(_ITEM, ast.Load()), [node.value, _index(index)], []), node)

    @staticmethod
    def _binary(op: ast.operator, left: ast.expr, right: ast.expr, node: ast.AST) -> ast.Call | None:
        if not isinstance(op, (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.MatMult)):
            return None
        arguments = [ast.Constant(type(op).__name__), left, right]
        return ast.copy_location(ast.Call(ast.Name(_BINARY, ast.Load()), arguments, []), node)


def _index(part: ast.expr) -> ast.expr:
    """Return an index as an expression: ``slice(a, b, c)`` for ``a:b:c``."""
    if not isinstance(part, ast.Slice):
        return part
    bounds = [bound or ast.Constant(None) for bound in (part.lower, part.upper, part.step)]
    return ast.Call(ast.Name("slice", ast.Load()), bounds, [])
