"""A plugin written for another mszoo: what this one doesn't know is named and left out, and all else counts."""

from __future__ import annotations

import copy
import pickle

import pytest

from mszoo.registry import Capability, ModelAdapter
from mszoo.registry.discovery import discover
from mszoo.registry.settings import Settings

NEXT = """
@hookimpl
def mszoo_suite():
    return Suite("next", "Of the next mszoo", homepage="https://example.org")

@hookimpl
def mszoo_model_adapters():
    return [
        ModelAdapter("PlainModel", "good:Model", capabilities=["lora"]),
        ModelAdapter("NewFieldModel", "good:Model", longest=4096, priority=3),
        ModelAdapter("NewerFieldModel", "good:Model", longest=1, prioriti=4),
        ModelAdapter("NewCapabilityModel", "good:Model", capabilities=["lora", "context-parallel"]),
        ModelAdapter("NewMemberModel", "good:Model", capabilities=[Capability.LORA, Capability.FAST_SLEEP]),
        ModelAdapter("NeedsItModel", "good:Model", longest=4096, requires=["mszoo>=99"]),
    ]

@hookimpl
def mszoo_op_adapters():
    return [OpAdapter("rms_norm", "good:rms_norm", "mine", shapes="any")]

@hookimpl
def mszoo_select(architecture, candidates, config):
    return candidates[-1]

@hookimpl
def mszoo_commands():
    return []
"""
HOOKS = (
    "mszoo_suite, mszoo_model_adapters, mszoo_layer_adapters, mszoo_op_adapters, mszoo_select, "
    "mszoo_doctor_checks, mszoo_model_loaded."
)
UNKNOWN = "is unknown, so it is ignored. It needs a newer mszoo."
TOLD = [
    f"mszoo_commands is not a hook. It is ignored: it needs a newer mszoo. The hooks are {HOOKS}",
    "mszoo_select has an unknown argument 'config', so it is ignored. "
    "Define it as mszoo_select(architecture, candidates). As it is, it needs a newer mszoo.",
    f"the field 'homepage' of Suite('next') {UNKNOWN}",
    f"the field 'longest' of ModelAdapter('NewFieldModel') and 2 more {UNKNOWN}",
    "the field 'prioriti' of ModelAdapter('NewerFieldModel') is unknown, so it is ignored. "
    "Did you mean 'priority'? If not, it needs a newer mszoo.",
    f"the capability 'context-parallel' of ModelAdapter('NewCapabilityModel') {UNKNOWN}",
    f"the capability 'fast-sleep' of ModelAdapter('NewMemberModel') {UNKNOWN}",
    f"the field 'shapes' of OpAdapter('rms_norm') {UNKNOWN}",
]


@pytest.fixture
def found(make_plugin):
    return discover(Settings(), [make_plugin(NEXT, "next", "next-dist")])


def test_what_this_mszoo_does_not_know_is_told_once(found):
    who = "plugin 'next' (next-dist 1.0): "
    assert sorted(map(str, found.problems)) == sorted(who + text for text in TOLD)


def test_all_else_counts(found):
    (contribution,) = found.contributions
    models = {item.architecture: item for item in contribution.models}
    assert list(models) == [
        "PlainModel", "NewFieldModel", "NewerFieldModel", "NewCapabilityModel", "NewMemberModel", "NeedsItModel",
    ]  # fmt: skip
    assert models["NewFieldModel"].priority == 3
    assert models["NewCapabilityModel"].capabilities == models["NewMemberModel"].capabilities == {"lora"}
    assert [item.op for item in contribution.ops] == ["rms_norm"]
    # What can't do without a newer mszoo says so, as it says of other packages.
    assert models["NeedsItModel"].requires == ("mszoo>=99",)


def test_a_plugin_with_nothing_but_newer_hooks_is_no_error(make_plugin):
    source = "@hookimpl\ndef mszoo_commands():\n    return []\n"
    found = discover(Settings(), [make_plugin(source, "next", "next-dist")])
    assert [problem.what for problem in found.problems] == ["mszoo_commands is not a hook"]
    assert [plugin.name for plugin in found.plugins] == ["next"]


def test_a_record_is_the_same_without_what_is_unknown():
    plain, newer = ModelAdapter("A", "a:B"), ModelAdapter("A", "a:B", newest=1)  # type: ignore[call-arg]
    assert newer == plain == pickle.loads(pickle.dumps(newer)) == copy.copy(newer)
    assert (plain.newer, newer.newer) == ((), ("field 'newest'",))


def test_capabilities_of_now_are_members_and_other_attributes_are_errors():
    assert Capability.LORA is Capability["LORA"] is Capability("lora")
    with pytest.raises(AttributeError):
        _ = Capability.lora  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        _ = Capability.__wrapped__  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'model'"):
        ModelAdapter("A")  # type: ignore[call-arg]
