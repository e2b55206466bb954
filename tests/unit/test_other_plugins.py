"""Which layer names other plugins take, read from source of every form that registers them."""

from __future__ import annotations

import pytest

from mszoo.adapters.vllm import other_plugins
from mszoo.adapters.vllm.other_plugins import ASCEND_LAYERS, names_in, names_to_come, registered_names

TABLE = """
TABLE = {}

def elsewhere():
    return {"NotALayer": 1}

def register(config):
    global TABLE
    TABLE = {"RMSNorm": A, "SiluAndMul": B}
    if config.mla:
        TABLE["GateLinear"] = C
    if old():
        TABLE.update({"Conv3dLayer": D})
    for name, layer in TABLE.items():
        CustomOp.register_oot(_decorated_op_cls=layer, name=name)
"""


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('CustomOp.register_oot(A, name="RMSNorm")', {"RMSNorm"}),
        ('@CustomOp.register_oot(name="RMSNorm")\nclass A(B): pass', {"RMSNorm"}),
        ("@RMSNorm.register_oot\nclass A(RMSNorm): pass", {"RMSNorm"}),
        ("@RMSNorm.register_oot()\nclass A(RMSNorm): pass", {"RMSNorm"}),
        ("@layers.RMSNorm.register_oot\nclass A(layers.RMSNorm): pass", {"RMSNorm"}),
        (TABLE, {"RMSNorm", "SiluAndMul", "GateLinear", "Conv3dLayer"}),
        ("class A: pass", set()),
        ("register_oot = 1 (", set()),
    ],
)
def test_names_are_found(source, expected):
    assert names_in(source) == expected


def test_names_of_a_package_are_read_without_importing_it(make_module):
    module = make_module('CustomOp.register_oot(A, name="RMSNorm")\nraise SystemExit')
    assert registered_names(module) == {"RMSNorm"}
    assert registered_names("no_such_package_anywhere") == frozenset()


def test_the_platform_package_takes_its_names(make_module):
    platform = make_module('CustomOp.register_oot(A, name="RMSNorm")')
    assert names_to_come(f"{platform}.inner", "cpu")["RMSNorm"] == platform


def test_on_npu_the_known_names_are_left_where_the_source_tells_nothing(monkeypatch):
    monkeypatch.setattr(other_plugins, "_plugin_packages", lambda platform: [])
    assert names_to_come("vllm.platforms.cpu", "npu").keys() == ASCEND_LAYERS
    assert names_to_come("vllm.platforms.cpu", "cpu") == {}


def test_on_npu_the_source_decides_where_it_can_be_read(make_module, monkeypatch):
    platform = make_module('CustomOp.register_oot(A, name="RMSNorm")')
    monkeypatch.setattr(other_plugins, "_plugin_packages", lambda platform: [])
    assert names_to_come(platform, "npu") == {"RMSNorm": platform}
