"""What is public keeps its names and arguments: a change of it is said to those who build on it."""

from __future__ import annotations

import ast
import difflib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "tools"))
try:
    import make_reference
    import make_signatures
finally:
    sys.path.pop(0)

WHAT_TO_DO = "Say what plugins have to do in registry/UPGRADING.md, then run tests/tools/make_signatures.py"


def test_what_is_public_is_as_written_down() -> None:
    written, found = make_signatures.FILE.read_text("utf-8"), make_signatures.signatures()
    changes = list(difflib.unified_diff(written.splitlines(), found.splitlines(), "before", "now", "", "", 0))
    assert not changes, "\n".join([WHAT_TO_DO, *changes])


def test_the_reference_is_as_the_docstrings_say() -> None:
    written, found = make_reference.FILE.read_text("utf-8"), make_reference.reference()
    changes = list(difflib.unified_diff(written.splitlines(), found.splitlines(), "before", "now", "", "", 0))
    assert not changes, "\n".join(["Run tests/tools/make_reference.py", *changes[:20]])


def test_the_reference_has_all_that_is_public() -> None:
    page = make_reference.FILE.read_text("utf-8").splitlines()
    lines = make_signatures.FILE.read_text("utf-8").splitlines()
    public = {line.partition("(")[0].rpartition(".")[2] for line in lines if not line.startswith(" ")}
    assert len(public) > 80
    assert [name for name in public if f"### {name}" not in page] == []


def test_all_that_templates_import_is_public() -> None:
    """What ``mszoo new`` writes leans on nothing that may change unsaid."""
    written = make_signatures.FILE.read_text("utf-8")
    public = {line.partition("(")[0] for line in written.splitlines() if not line.startswith(" ")}
    found = set()
    for path in (ROOT / "registry" / "cli" / "new" / "template").rglob("*.py.tmpl"):
        text = (
            path.read_text("utf-8").replace("@PREFIX@", "X").replace("@PACKAGE@", "x").replace("@SUITE@", "x")
        )
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mszoo."):
                found |= {f"{node.module.removeprefix('mszoo.')}.{alias.name}" for alias in node.names}
    assert len(found) > 20
    assert found - public == set()
