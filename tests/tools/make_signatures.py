"""Writes down what is public: ``python tests/tools/make_signatures.py``, after a line in registry/UPGRADING.md.

Read from the sources: names of the packages' ``__all__`` and the hooks, with fields, arguments and public methods.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "tests" / "unit" / "signatures.txt"
#: Packages whose ``__all__`` is public, and modules of which single names are.
PACKAGES = ("registry", "layers", "layers/decoder", "tests/conformance")
NAMES = {
    "registry/errors.py": ("MszooError", "RefusalError", "CheckpointError"),
    "layers/decoder/spec.py": ("NormSpec",),
    "layers/vision.py": ("Projector", "VisionSpec", "VisionTransformer"),
    "models/llama.py": ("LlamaForCausalLM",),
    "models/vision.py": ("CLIP", "read_vision_config"),
    "tests/conformance/checkpoints.py": ("Checkpoint", "write_tokenizer"),
    "layers/network.py": ("NetworkForCausalLM", "Linear"),
    "layers/multimodal.py": ("MultiModalLM", "may_read"),
    "layers/encoder.py": ("EncoderForPooling", "EncoderSpec"),
    "layers/draft.py": ("DraftHead",),
    "layers/cells.py": ("replace_cells", "CellStays"),
    "models/reader.py": ("DecoderReader",),
    "models/encoder_reader.py": ("EncoderReader",),
    "models/config.py": ("ConfigReader",),
    "kernels/exchange.py": ("to_mindspore", "to_torch", "ParameterView"),
}


def signatures() -> str:
    """Return the text of the file."""
    lines = [f"{name}{arguments}" for name, arguments in _hooks()]
    for package in PACKAGES:
        sources = _sources(package)
        lines += [line for name, path in sources.items() for line in _lines(package, name, path)]
    for path, names in NAMES.items():
        lines += [line for name in names for line in _lines(path.removesuffix(".py"), name, ROOT / path)]
    return "\n".join(lines) + "\n"


def _hooks() -> Iterator[tuple[str, str]]:
    for node in _parse(ROOT / "registry" / "hookspecs.py").body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("mszoo_"):
            yield node.name, f"({ast.unparse(node.args)})"


def _sources(package: str) -> dict[str, Path]:
    """Return where each public name of a package is defined."""
    tree = _parse(ROOT / package / "__init__.py")
    origins: dict[str, str] = {}
    public: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            origins |= {alias.name: node.module for alias in node.names}
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            public = ast.literal_eval(node.value)
    return {name: _path(origins[name]) for name in sorted(public)}


def _path(module: str) -> Path:
    module = module.removeprefix("mszoo.")
    folder = f"tests/{module}" if module.startswith("conformance") else module
    return ROOT / f"{folder.replace('.', '/')}.py"


def _lines(place: str, name: str, path: Path) -> Iterator[str]:
    where = f"{place.replace('/', '.').removeprefix('tests.')}.{name}"
    node = next((x for x in _parse(path).body if getattr(x, "name", None) == name), None)
    if isinstance(node, ast.FunctionDef):
        yield f"{where}({ast.unparse(node.args)})"
    elif isinstance(node, ast.ClassDef):
        yield f"{where}({', '.join(map(ast.unparse, node.bases))})"
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and not ast.unparse(item.target).startswith("_"):
                value = "" if item.value is None else f" = {ast.unparse(item.value)}"
                yield f"    {ast.unparse(item.target)}: {ast.unparse(item.annotation)}{value}"
            elif isinstance(item, ast.Assign):
                yield f"    {ast.unparse(item)}"
            elif isinstance(item, ast.FunctionDef) and (item.name == "__init__" or item.name[0] != "_"):
                yield f"    {item.name}({ast.unparse(item.args)})"
    else:
        yield where


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


if __name__ == "__main__":
    FILE.write_text(signatures(), "utf-8")
