"""What classes are derived from, read from sources."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mszoo.registry.bases import foreign_bases

SOURCES = {
    "basesdist/__init__.py": "from .deep import Deep as Shown\n",
    "basesdist/deep.py": """
import mindspore.nn as nn
import torch
from mszoo.layers import CausalLM

class Base(CausalLM): pass
class Deep(Base): pass
class Cell(nn.Cell): pass
class Module(torch.nn.Module): pass
class Generic(Base[int], object): pass
class Alone: pass
class Computed(type("X", (), {})): pass
class Unknown(Missing): pass
def factory(config, prefix=""): pass
""",
}


@pytest.mark.parametrize(
    ("path", "bases"),
    [
        ("basesdist:Shown", {"mszoo.layers:CausalLM"}),
        ("basesdist.deep:Deep", {"mszoo.layers:CausalLM"}),
        ("basesdist.deep:Generic", {"mszoo.layers:CausalLM"}),
        ("basesdist.deep:Cell", {"mindspore.nn:Cell"}),
        ("basesdist.deep:Module", {"torch:nn.Module"}),
        ("basesdist.deep:Alone", set()),
        ("basesdist.deep:Computed", None),
        ("basesdist.deep:Unknown", None),
        ("basesdist.deep:factory", None),
        ("basesdist.gone:Deep", None),
    ],
)
def test_bases(path: str, bases: set[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert foreign_bases(path) == bases
    assert "basesdist.deep" not in sys.modules
