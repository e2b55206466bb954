"""The inventory of what mszoo leans on in vLLM, and how vLLM's sources are compared with it."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
import zipfile
from pathlib import Path

import pytest

from mszoo.registry.inventory import check as checking
from mszoo.registry.inventory.check import check, complaint, inventory
from mszoo.registry.inventory.source import Source, SourceError
from mszoo.registry.inventory.symbols import Package

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = Path(importlib.util.find_spec("vllm").submodule_search_locations[0])  # type: ignore[union-attr,index]

MODULES = {
    "__init__.py": "from vllm.late import *\nif TYPE_CHECKING:\n    from vllm.engine import LLM\n",
    "late.py": "def helper(a, b, *, c=1):\n    pass\n",
    "engine.py": '''
"""A text
class NotReal is no code.
"""
from dataclasses import dataclass
from .config import Config, Base
try:
    from vllm.gone import Fast
except ImportError:
    Fast = None

class LLM(Base):
    kind: str = "x"
    config: "Config | None"
    def __init__(self, model, *, dtype="auto", seed):
        self.model, self.dtype = model, dtype

    @property
    def made(self) -> Config:
        return self.config
''',
    "config.py": "class Base:\n    def shared(self): pass\n\n@dataclass\nclass Config:\n    size: int = 1\n",
}


@pytest.fixture
def package(tmp_path):
    (tmp_path / "vllm").mkdir()
    for name, text in MODULES.items():
        (tmp_path / "vllm" / name).write_text(text)
    return Package(Source(tmp_path, "vllm"))


def call(symbol, positional=0, *keywords):
    return {"symbol": symbol, "calls": [{"positional": positional, "keywords": list(keywords)}]}


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ({"symbol": "vllm:LLM"}, None),
        ({"symbol": "vllm:helper"}, None),
        ({"symbol": "vllm.engine:LLM.model"}, None),
        ({"symbol": "vllm.engine:LLM.shared"}, None),
        ({"symbol": "vllm.engine:LLM.config.size"}, None),
        ({"symbol": "vllm.engine:LLM.made.size"}, None),
        ({"symbol": "vllm.engine:Fast"}, None),
        (call("vllm:LLM", 1, "seed"), None),
        (call("vllm:LLM", 0, "model", "seed", "dtype"), None),
        (call("vllm:helper", 2, "c"), None),
        ({"symbol": "vllm:Nothing"}, "vllm has no Nothing"),
        ({"symbol": "vllm.gone:Fast"}, "vllm.gone has no Fast"),
        ({"symbol": "vllm.engine:NotReal"}, "vllm.engine has no NotReal"),
        ({"symbol": "vllm.engine:LLM.gone"}, "LLM has no gone"),
        ({"symbol": "vllm.engine:LLM.config.gone"}, "Config has no gone"),
        (call("vllm:LLM", 2, "seed"), "LLM takes 1 arguments by position"),
        (call("vllm:LLM", 1, "seed", "gone"), "LLM has no parameter gone"),
        (call("vllm:LLM", 1), "LLM needs seed too"),
        (call("vllm:helper", 1), "helper needs b too"),
    ],
)
def test_names_attributes_and_calls(package, option, expected):
    assert complaint(package, option) == expected


def test_the_file_is_what_the_code_says():
    sys.path.insert(0, str(ROOT / "tests" / "tools"))
    try:
        import make_inventory
    finally:
        sys.path.pop(0)
    written = (ROOT / "registry" / "inventory" / "inventory.json").read_text("utf-8")
    assert written == make_inventory.text(), "Run tests/tools/make_inventory.py"


def test_the_installed_vllm_has_all_and_the_check_is_quick():
    start = time.process_time()
    report = check(Source(INSTALLED, "vllm"))
    assert time.process_time() - start < 3.0  # half a second on an idle machine; parsing whole files takes 5
    assert [lack.what for lack in report.lacks if lack.feature != "fast_experts"] == []
    assert report.is_usable
    assert report.ops_checked


def spoiled(tmp_path, spoil):
    """Return a copy of the installed vLLM's sources, links to the same files but for what `spoil` changes."""
    root = tmp_path / "spoiled" / "vllm"
    for path in INSTALLED.rglob("*.py"):
        copy = root / path.relative_to(INSTALLED)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(path)
    for name, change in spoil.items():
        text = (INSTALLED / name).read_text()
        assert change(text) != text
        (root / name).unlink()
        (root / name).write_text(change(text))
    return root.parent


def test_what_is_lacking_is_told_with_what_then_fails(tmp_path):
    attention = "model_executor/layers/attention/__init__.py"
    registry = "model_executor/models/registry.py"
    place = spoiled(tmp_path, {attention: lambda text: text.replace("MLAAttention", "OtherAttention")})
    report = check(Source(place, "vllm"))
    (lack,) = report.lacks
    assert (lack.feature, lack.required) == ("latent_attention", False)
    assert lack.what == "vllm.model_executor.layers.attention has no MLAAttention"
    assert "DeepSeek" in lack.without
    assert report.is_usable
    assert not report.ops_checked
    place = spoiled(
        tmp_path / "more", {registry: lambda text: text.replace("def register_model(", "def enrol(")}
    )
    report = check(Source(place, "vllm"))
    assert [lack.what for lack in report.lacks] == ["_ModelRegistry has no register_model"]
    assert not report.is_usable


def test_one_of_several_alternatives_is_enough(package, monkeypatch):
    need = {"feature": "f", "any_of": [{"symbol": "vllm.gone:A"}, {"symbol": "vllm:LLM"}]}
    small = {"features": {"f": {"required": True, "without": "nothing works"}}, "needs": [need], "ops": {}}
    monkeypatch.setattr(checking, "inventory", lambda: small)
    assert check(package.source).lacks == ()
    need["any_of"][1]["symbol"] = "vllm:Gone"
    assert [lack.what for lack in check(package.source).lacks] == [
        "vllm.gone has no A; nor: vllm has no Gone"
    ]


SCHEMA = b"rms_norm(Tensor! out, Tensor input, Tensor? weight, float epsilon) -> ()"


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (SCHEMA, None),
        (SCHEMA.replace(b")", b", int more=1)"), None),
        (SCHEMA.replace(b") ", b", int more) "), "op rms_norm takes (out, input, weight, epsilon, more)"),
        (SCHEMA.replace(b"float epsilon", b"float eps"), "op rms_norm takes (out, input, weight, eps)"),
        (b"other(Tensor x) -> ()", "there is no op rms_norm"),
    ],
)
def test_ops_are_compared_by_schema(tmp_path, schema, expected):
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("")
    rest = [
        f"{name}({', '.join(f'Tensor {item}' for item in op['forms'][0])}) -> ()"
        for name, op in inventory()["ops"].items()
        if name != "rms_norm"
    ]
    texts = b"\0".join([b"", *(text.encode() for text in rest), schema, b"my_rms_norm(Tensor x) -> ()", b""])
    (tmp_path / "vllm" / "_C.abi3.so").write_bytes(texts)
    report = check(Source(tmp_path, "vllm"))
    assert report.ops_checked
    found = [lack.what for lack in report.lacks if lack.what.startswith(("op ", "there is no op"))]
    assert found == ([] if expected is None else [expected])


def test_a_wheel_is_read_as_it_is(tmp_path):
    wheel = tmp_path / "vllm-9.9-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in MODULES.items():
            archive.writestr(f"vllm/{name}", text)
        archive.writestr("vllm-9.9.dist-info/METADATA", "Name: vllm\nVersion: 9.9\n")
    source = Source(wheel, "vllm")
    assert source.version == "9.9"
    assert complaint(Package(source), {"symbol": "vllm:LLM.model"}) is None


def test_a_place_without_vllm_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"has no package vllm.*or a folder that one was unzipped to"):
        Source(tmp_path, "vllm")
    (tmp_path / "a.whl").write_text("no archive")
    with pytest.raises(SourceError, match="is no wheel"):
        Source(tmp_path / "a.whl", "vllm")


def test_every_need_says_what_it_serves():
    known = inventory()
    assert {need["feature"] for need in known["needs"]} | {
        op["feature"] for op in known["ops"].values()
    } == set(known["features"])
    assert json.dumps(known)
