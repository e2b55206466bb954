"""Writes registry/inventory/inventory.json: what mszoo leans on in vLLM, read from mszoo's own code.

    python tests/tools/make_inventory.py

Names, their alternatives (``try``/``except ImportError`` in a seam) and the calls that are made of them come from
the source; why each is needed, and attributes, from vllm_needs.toml beside this. It imports nothing of vLLM.
"""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parents[2]
NEEDS = Path(__file__).with_name("vllm_needs.toml")
INVENTORY = ROOT / "registry" / "inventory" / "inventory.json"
#: The modules that name what is vLLM's, and how others import them. Layers have one for each device.
SEAMS = {
    "mszoo.layers.seam": "layers/seam.py",
    **{f"mszoo.layers.{path.stem}": f"layers/{path.name}" for path in sorted(ROOT.glob("layers/seam_*.py"))},
    "mszoo.adapters.vllm.seam": "adapters/vllm/seam.py",
    "mszoo.conformance.seam": "tests/conformance/seam.py",
}
ROOMS = ("layers", "adapters", "models", "kernels", "tests/conformance")
OPS = "kernels/vllm_ops.py"


def seam_names(path: str) -> dict[str, list[str]]:
    """Return what a seam names: by its local name, the symbols ``module:name`` that may stand for it."""
    found: dict[str, list[str]] = defaultdict(list)
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
            for alias in node.names:
                found[alias.asname or alias.name].append(f"{node.module}:{alias.name}")
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_LATE":
            for name, module in ast.literal_eval(node.value).items():
                found[name].append(f"{module}:{name}")
    return dict(found)


class Uses(ast.NodeVisitor):
    """Collects the calls that one file makes of the names of the seams.

    Args:
        local: the seams' names by the file's own.
    """

    def __init__(self, local: dict[str, str]) -> None:
        self.local = local
        self.calls: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._bases: list[list[str]] = []

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Note the class's bases, for what it calls of them."""
        self._bases.append(
            [self.local[ast.unparse(base)] for base in node.bases if ast.unparse(base) in self.local]
        )
        self.generic_visit(node)
        self._bases.pop()

    def visit_Call(self, node: ast.Call) -> None:
        """Note a call of a name, or of a base's ``__init__``."""
        called = ast.unparse(node.func)
        names = [self.local[called]] if called in self.local else []
        if called == "super().__init__" and self._bases:
            names = self._bases[-1]
        keywords = [keyword.arg or "*" for keyword in node.keywords]
        starred = any(isinstance(item, ast.Starred) for item in node.args)
        for name in names:
            if not starred and (len(names) == 1 or keywords or node.args):
                call = {"positional": len(node.args), "keywords": sorted(keywords)}
                if call not in self.calls[name]:
                    self.calls[name].append(call)
        self.generic_visit(node)


def uses() -> tuple[dict[str, list[dict[str, Any]]], dict[str, list[str]]]:
    """Return the calls of each seam name, and the files that use it."""
    calls: dict[str, list[dict[str, Any]]] = defaultdict(list)
    used_by: dict[str, list[str]] = defaultdict(list)
    for path in sorted(item for room in ROOMS for item in (ROOT / room).rglob("*.py")):
        relative = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text("utf-8"))
        local = {
            alias.asname or alias.name: alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module in SEAMS
            for alias in node.names
        }
        own = {name: name for module, seam in SEAMS.items() if seam == relative for name in seam_names(seam)}
        found = Uses(local | own)
        found.visit(tree)
        for name, made in found.calls.items():
            calls[name] += [call for call in made if call not in calls[name]]
        for name in sorted({*local.values(), *own}):
            used_by[name].append(relative)
    return calls, used_by


def ops() -> dict[str, list[list[str]]]:
    """Return the forms in which each op of vLLM's is called."""
    from mszoo.kernels.vllm_ops import OPS as calls

    return {name: [list(form) for form in call.forms] for name, call in calls.items()}


def inventory() -> dict[str, Any]:
    """Return the inventory.

    Raises:
        SystemExit: a name has no reason in vllm_needs.toml, or a reason no name.
    """
    needs = tomllib.loads(NEEDS.read_text("utf-8"))
    symbols: dict[str, list[str]] = defaultdict(list)
    for seam in SEAMS.values():
        for name, options in seam_names(seam).items():
            symbols[name] += [option for option in options if option not in symbols[name]]
    reasons = {name: feature for feature, entry in needs.items() for name in entry["names"]}
    of_ops = {name: feature for feature, entry in needs.items() for name in entry.get("ops", ())}
    forms = ops()
    for what, one, other in (("name", set(symbols), set(reasons)), ("op", set(forms), set(of_ops))):
        if one - other:
            raise SystemExit(
                f"Say in {NEEDS.name} what these {what}s serve: {', '.join(sorted(one - other))}"
            )
        if other - one:
            raise SystemExit(f"{NEEDS.name} has {what}s that no seam has: {', '.join(sorted(other - one))}")
    calls, used_by = uses()
    entries = []
    for feature, entry in needs.items():
        for name in sorted(entry["names"]):
            options = [
                {"symbol": symbol, **({"calls": calls[name]} if calls.get(name) else {})}
                for symbol in symbols[name]
            ]
            entries.append({"feature": feature, "any_of": options, "used_by": used_by[name]})
        for text in entry["also"]:
            options = [{"symbol": symbol} for symbol in text.split(" | ")]
            entries.append({"feature": feature, "any_of": options})
    return {
        "features": {
            feature: {"required": entry["required"], "without": entry["without"]}
            for feature, entry in needs.items()
        },
        "needs": entries,
        "ops": {name: {"feature": of_ops[name], "forms": forms[name]} for name in sorted(forms)},
    }


def text() -> str:
    """Return the inventory as its file holds it."""
    return json.dumps(inventory(), indent=1) + "\n"


if __name__ == "__main__":
    INVENTORY.write_text(text(), "utf-8")
