"""The house rules on imports, read from the source: a light core, and no foreign attribute changed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"vllm", "torch", "mindspore", "numpy", "transformers", "mindformers", "mindone"}
FOREIGN = {"vllm", "torch", "transformers", "mindspore"}
# A suite's other modules are imported where one of its models is built (test_suites sees to that).
PLUGINS = ("adapters/*.py", "adapters/*/__init__.py")
LIGHT = ("registry/**/*.py", "adapters/vllm/cli/**/*.py", *PLUGINS)
CORE = sorted(path for pattern in LIGHT for path in ROOT.glob(pattern))
PROJECT = sorted(
    path
    for folder in ("registry", "adapters", "layers", "kernels", "models", "tests/conformance")
    for path in ROOT.glob(f"{folder}/**/*.py")
)


def imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Give (bound name, top-level package) of an import statement."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            package = alias.name.split(".")[0]
            yield alias.asname or package, package
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        for alias in node.names:
            yield alias.asname or alias.name, (node.module or "").split(".")[0]


def test_suites_know_vllm_by_mszoos_layers_alone() -> None:
    suites = (path for path in ROOT.glob("adapters/**/*.py") if "vllm" not in path.parts)
    found = {
        str(path.relative_to(ROOT))
        for path in suites
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for _, package in imported(node)
        if package == "vllm"
    }
    assert found == set()


# The seams: where vLLM's names are imported, in the four packages that lean on them.
# Layers have one for each device that needs it.
SEAMS = {
    "adapters/vllm/seam.py",
    "kernels/vllm_ops.py",
    "layers/seam.py",
    "tests/conformance/seam.py",
} | {f"layers/{path.name}" for path in ROOT.glob("layers/seam_*.py")}
IMPORTERS = {"import_module", "__import__", "load_object", "resolve_name"}


def vllm_imports(source: str) -> list[str]:
    """Return the imports of vllm anywhere in a module, by statement or by name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if any(package == "vllm" for _, package in imported(node)):
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in IMPORTERS:
            texts = [item for item in ast.walk(node) if isinstance(item, ast.Constant)]
            if any(isinstance(item.value, str) and re.match(r"vllm\b(?!_)", item.value) for item in texts):
                found.append(ast.unparse(node))
    return found


def test_vllm_is_imported_in_the_seams_alone():
    importers = {str(path.relative_to(ROOT)) for path in PROJECT if vllm_imports(path.read_text("utf-8"))}
    assert importers <= SEAMS
    assert SEAMS - importers <= {"tests/conformance/seam.py"}  # all its names are late


@pytest.mark.parametrize(
    "source",
    [
        "import vllm.config",
        "def f():\n    from vllm.config import VllmConfig",
        "if TYPE_CHECKING:\n    from vllm import LLM",
        "import importlib\nimportlib.import_module('vllm.config')",
        "import_module(f'vllm.{name}')",
        "load_object('vllm.config:VllmConfig')",
        "__import__('vllm')",
    ],
)
def test_the_seam_checker_bites(source):
    assert len(vllm_imports(source)) == 1


@pytest.mark.parametrize(
    "source",
    ["from mszoo.adapters.vllm import seam", "import vllm_ascend", "load_object(path)", "find_spec('vllm')"],
)
def test_the_seam_checker_lets_pass(source):
    assert vllm_imports(source) == []


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def heavy_imports(source: str) -> list[str]:
    """Return the heavy packages that a module imports when it is imported itself."""
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return
        found.extend(package for _, package in imported(node) if package in HEAVY)
        children = (
            node.orelse if isinstance(node, ast.If) and is_type_checking(node) else ast.iter_child_nodes(node)
        )
        for child in children:
            visit(child)

    visit(ast.parse(source))
    return found


class Patches(ast.NodeVisitor):
    """Collects assignments, setattr() and deletions on whatever is bound by a foreign import.

    Names are followed through plain aliases (``Y = vllm.x.Y``) and through importlib.import_module and
    sys.modules. A name counts as foreign in the whole file, wherever it is imported: one word, one meaning.
    Instances are not followed: changing an object that one owns is no patch.
    """

    def __init__(self, tree: ast.AST) -> None:
        self.names = {
            name for node in ast.walk(tree) for name, package in imported(node) if package in FOREIGN
        }
        self.found: list[str] = []
        # Aliases of aliases: repeat until nothing new turns up.
        aliases = [
            node for node in ast.walk(tree) if isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr))
        ]
        before = -1
        while before != len(self.names):
            before = len(self.names)
            for node in aliases:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if node.value is not None and self.is_foreign(node.value):
                    self.names.update(target.id for target in targets if isinstance(target, ast.Name))
        self.visit(tree)

    def is_foreign(self, node: ast.AST) -> bool:
        """Say whether an expression is a foreign module, or something reached from one by attributes."""
        while isinstance(node, ast.Attribute):
            node = node.value
        if isinstance(node, ast.Name):
            return node.id in self.names
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("sys.modules", "modules"):
            return self.is_foreign_text(node.slice)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if (
                called in ("importlib.import_module", "import_module", "__import__", "sys.modules.get")
                and node.args
            ):
                return self.is_foreign_text(node.args[0])
            if called == "getattr" and node.args:
                return self.is_foreign(node.args[0])
        return False

    @staticmethod
    def is_foreign_text(node: ast.AST) -> bool:
        text = node.value if isinstance(node, ast.Constant) else None
        return isinstance(text, str) and text.split(".")[0] in FOREIGN

    def check(self, target: ast.AST) -> None:
        """Record a target that is an attribute, or an item of a namespace, of something foreign."""
        if isinstance(target, (ast.Tuple, ast.List)):
            for item in target.elts:
                self.check(item)
        elif isinstance(target, ast.Starred):
            self.check(target.value)
        elif isinstance(target, ast.Attribute) and self.is_foreign(target.value):
            self.found.append(ast.unparse(target))
        elif isinstance(target, ast.Subscript):
            of_modules = ast.unparse(target.value) in ("sys.modules", "modules")
            replaces_module = of_modules and self.is_foreign_text(target.slice)
            if replaces_module or self.is_foreign(target.value) or self.is_namespace(target.value):
                self.found.append(ast.unparse(target))

    def is_namespace(self, node: ast.AST) -> bool:
        return (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "vars"
            and bool(node.args)
            and self.is_foreign(node.args[0])
        )

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self.check(target)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.check(node.target)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.check(node.target)
        self.generic_visit(node)

    def visit_Delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            self.check(target)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self.check(node.target)
        self.generic_visit(node)

    def visit_withitem(self, node: ast.withitem) -> None:
        if node.optional_vars is not None:
            self.check(node.optional_vars)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = ast.unparse(node.func)
        if called.split(".")[-1] in ("setattr", "delattr", "__setattr__", "__delattr__", "patch", "object"):
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            subjects = [*node.args[:1], *([owner] if owner is not None else [])]
            if any(self.is_foreign(item) or self.is_foreign_text(item) for item in subjects):
                self.found.append(ast.unparse(node))
        # vars(Y).update(...), Y.__dict__.update(...)
        if isinstance(node.func, ast.Attribute) and node.func.attr in (
            "update",
            "pop",
            "setdefault",
            "clear",
        ):
            owner = node.func.value
            inside = (
                isinstance(owner, ast.Attribute) and owner.attr == "__dict__" and self.is_foreign(owner.value)
            )
            if inside or self.is_namespace(owner):
                self.found.append(ast.unparse(node))
        self.generic_visit(node)


def patches(source: str) -> list[str]:
    return Patches(ast.parse(source)).found


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_imports_nothing_heavy(path):
    assert heavy_imports(path.read_text()) == []


def test_no_attribute_of_a_foreign_module_is_changed():
    found = {str(path.relative_to(ROOT)): patches(path.read_text()) for path in PROJECT}
    assert {name: what for name, what in found.items() if what} == {}
    assert len(found) > 10


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import vllm", ["vllm"]),
        ("import torch.nn as nn", ["torch"]),
        ("from mindspore.ops import add", ["mindspore"]),
        ("try:\n    import numpy\nexcept ImportError:\n    pass", ["numpy"]),
        ("if True:\n    import vllm", ["vllm"]),
        ("class A:\n    import vllm", ["vllm"]),
        ("if TYPE_CHECKING:\n    import vllm\nelse:\n    import torch", ["torch"]),
        ("def f():\n    import vllm", []),
        ("if TYPE_CHECKING:\n    import vllm", []),
        ("from mszoo.adapters.vllm import vllm", []),
        ("from . import torch", []),
    ],
)
def test_the_import_checker_bites(source, expected):
    assert heavy_imports(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "import vllm\nvllm.x = 1",
        "import vllm.config\nvllm.config.x.y = 1",
        "import torch as t\nt.x += 1",
        "import torch\ntorch.x: int = 1",
        "import torch\n(torch.x, a) = 1, 2",
        "import torch\n[a, *torch.x] = 1, 2",
        "import torch\nfor torch.x in y: pass",
        "import torch\nwith open('a') as torch.x: pass",
        "import torch\ndel torch.x",
        "from vllm.model_executor import layers as l\nl.x = 1",
        "from vllm.attention import Attention\nAttention.forward = f",
        "from vllm.attention import Attention\ndel Attention.forward",
        "from vllm.attention import Attention\nsetattr(Attention, 'forward', f)",
        "from vllm.attention import Attention\ndelattr(Attention, 'forward')",
        "from vllm.attention import Attention\ntype.__setattr__(Attention, 'forward', f)",
        "from vllm.attention import Attention\nAttention.__dict__['forward'] = f",
        "from vllm.attention import Attention\nvars(Attention)['forward'] = f",
        "import vllm\nvars(vllm).update(x=1)",
        "import vllm\nvllm.__dict__.update(x=1)",
        "import vllm\nvllm.REGISTRY['x'] = 1",
        "import vllm\nsetattr(vllm.config, 'x', 1)",
        "def f():\n    import mindspore as ms\n    ms.ops.add = g",
        "def f():\n    from transformers import AutoConfig\n    def g():\n        AutoConfig.x = 1",
        "import vllm\nalias = vllm.config\nalias.x = 1",
        "import vllm\nfirst = vllm\nsecond = first.y\nsecond.x = 1",
        "import vllm\nif (alias := vllm.config):\n    alias.x = 1",
        "import importlib\nm = importlib.import_module('vllm.config')\nm.x = 1",
        "import importlib\nimportlib.import_module('vllm.config').x = 1",
        "import sys\nsys.modules['vllm.config'].x = 1",
        "import sys\nsys.modules['vllm.config'] = fake",
        "import sys\ndel sys.modules['torch']",
        "import vllm\ngetattr(vllm, 'config').x = 1",
        "from unittest import mock\nmock.patch('vllm.config.x', 1)",
        "from unittest.mock import patch\nimport vllm\npatch.object(vllm, 'x', 1)",
    ],
)
def test_the_patch_checker_bites(source):
    assert len(patches(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import torch\nx = torch.y",
        "import torch\nclass A(torch.nn.Module):\n    x = 1\n    def f(self):\n        self.y = torch.z",
        "import torch\ntensor = torch.zeros(2)\ntensor[0] = 1\ntensor.requires_grad = False",
        "from vllm.attention import Attention\nlayer = Attention()\nlayer.x = 1\nsetattr(layer, 'y', 2)",
        "import torch\nresult = {}\nresult[torch.float32] = 1",
        "import mszoo.registry\nmszoo.registry.x = 1",
        "import os\nos.environ['vllm'] = '1'",
    ],
)
def test_the_patch_checker_lets_pass(source):
    assert patches(source) == []
