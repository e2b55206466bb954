"""The house: a ground floor that leans on nothing, arrows between rooms that point one way, and no circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Each may import those before it; what a suite adds to its conformance knows the tests, too.
ROOMS = ("registry", "kernels", "layers", "models", "adapters")
# The suites in the tree.
SUITES = tuple(item.name for item in entry_points(group="mszoo") if item.module.startswith("mszoo.adapters."))
HEAVY = ("vllm", "torch", "mindspore")


def modules(room: str, root: Path = ROOT) -> dict[str, Path]:
    """Return the files of a room by module name."""
    found = {}
    for path in sorted((root / room).rglob("*.py")):
        parts = ("mszoo", *path.relative_to(root).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(module: str, path: Path, known: set[str]) -> Iterator[str]:
    """Give what a module imports anywhere in it: in functions and under TYPE_CHECKING too.

    A name that is a module in ``known`` counts as that module: ``from mszoo.registry import hookspecs``.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            )
            source = ".".join(item for item in (base, node.module) if item)
            for alias in node.names:
                name = f"{source}.{alias.name}"
                yield name if name in known else source


def graph(room: str, root: Path = ROOT) -> dict[str, set[str]]:
    found = modules(room, root)
    return {name: set(imports(name, path, set(found))) for name, path in found.items()}


def circles(edges: dict[str, set[str]]) -> list[str]:
    """Return the modules from which a way leads back to them."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            new = (edges.get(todo.pop(), set()) & edges.keys()) - seen
            seen |= new
            todo += new
        return seen

    return sorted(name for name in edges if name in reached(name))


def rooms_of(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("mszoo.")}


@pytest.mark.parametrize("room", ["registry", "adapters/vllm"])
def test_no_circle(room):
    edges = graph(room)
    assert len(edges) > 20
    assert circles(edges) == []


def test_the_registry_is_the_ground_floor():
    found = {
        f"{module} imports {name}"
        for module, names in graph("registry").items()
        for name in names
        if rooms_of({name}) - {"registry"} or name.split(".")[0] in HEAVY
    }
    assert found == set()


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_between_rooms_point_one_way(room):
    allowed = {*ROOMS[: ROOMS.index(room) + 1]}
    found = {
        f"{module} imports {name}"
        for module, names in graph(room).items()
        for name in names
        if rooms_of({name}) - allowed - ({"conformance"} if module.endswith(".conformance") else set())
    }
    assert found == set()


def test_suites_and_the_bridge_do_not_know_each_other():
    suites = {f"mszoo.adapters.{name}" for name in SUITES}
    bridge = "mszoo.adapters.vllm"

    def within(name: str, packages: set[str]) -> bool:
        return any(name == package or name.startswith(f"{package}.") for package in packages)

    found = {
        f"{module} imports {name}"
        for module, names in graph("adapters").items()
        for name in names
        for one, other in ((suites, {bridge}), ({bridge}, suites))
        if within(module, one) and within(name, other)
    }
    assert found == set()


CIRCLE = {
    "a.py": "def f():\n    from mszoo.registry import b",
    "b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mszoo.registry.c import C",
    "c.py": "from .a import f",
    "d.py": "import mszoo.registry.a",
}


def test_the_graph_bites(tmp_path):
    (tmp_path / "registry").mkdir()
    for name, text in {"__init__.py": "", **CIRCLE}.items():
        (tmp_path / "registry" / name).write_text(text)
    edges = graph("registry", tmp_path)
    assert circles(edges) == ["mszoo.registry.a", "mszoo.registry.b", "mszoo.registry.c"]
    (tmp_path / "registry" / "c.py").write_text("import vllm\nimport mszoo.kernels.spec")
    assert circles(graph("registry", tmp_path)) == []
    assert rooms_of(graph("registry", tmp_path)["mszoo.registry.c"]) == {"kernels"}
