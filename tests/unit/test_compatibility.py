"""A plugin written for another mszoo: what this one doesn't know is named and left out, and all else counts."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pluggy
import pytest

from mszoo.registry import Capability, ModelAdapter, hookspecs
from mszoo.registry.catalog import Catalog
from mszoo.registry.discovery import discover
from mszoo.registry.hookcalls import call_hook
from mszoo.registry.plugins import load_plugins
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
def mszoo_select(architecture, candidates, engine):
    return candidates[-1]

@hookimpl
def mszoo_tools():
    return []
"""
HOOKS = (
    "mszoo_suite, mszoo_model_adapters, mszoo_layer_adapters, mszoo_op_adapters, mszoo_select, "
    "mszoo_doctor_checks, mszoo_commands, mszoo_model_loaded."
)
UNKNOWN = "is unknown, so it is ignored. It needs a newer mszoo."
TOLD = [
    f"mszoo_tools is not a hook. It is ignored: it needs a newer mszoo. The hooks are {HOOKS}",
    "mszoo_select has an unknown argument 'engine', so it is ignored. "
    "Define it as mszoo_select(architecture, candidates, suites, config). As it is, it needs a newer mszoo.",
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
    source = "@hookimpl\ndef mszoo_tools():\n    return []\n"
    found = discover(Settings(), [make_plugin(source, "next", "next-dist")])
    assert [problem.what for problem in found.problems] == ["mszoo_tools is not a hook"]
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


# As the first version's registry/README.md had it: fields by position, hooks with the arguments of then.
FIRST = """
loaded = []

@hookimpl
def mszoo_suite():
    return Suite("first", description="Of mszoo 0.1", requires=(), install="")

@hookimpl
def mszoo_model_adapters():
    return [
        ModelAdapter(
            "FirstForCausalLM", "good:Model", frozenset({Capability.LORA, Capability.TENSOR_PARALLEL}), (),
            ("cpu", "npu"), ("float32", "bfloat16"), 1, packed_modules_mapping={"qkv_proj": ("q", "k", "v")},
            example_config={"model_type": "llama"},
        ),
        ModelAdapter("OtherForCausalLM", "good:Other"),
    ]

@hookimpl
def mszoo_layer_adapters():
    return [LayerAdapter("vllm:RMSNorm", "good:Norm", devices=("cpu",), dtypes=("float32",))]

@hookimpl
def mszoo_op_adapters():
    return [OpAdapter("rms_norm", "good:rms_norm", "mine", priority=-1)]

@hookimpl
def mszoo_select(architecture, candidates):
    return candidates[-1]

@hookimpl
def mszoo_model_loaded(decision, model):
    loaded.append((decision.architecture, model))
"""


def test_a_plugin_of_the_first_version(make_plugin):
    found = discover(Settings(), [make_plugin(FIRST, "first", "first-dist")])
    assert found.problems == ()
    (contribution,) = found.contributions
    records = (*contribution.models, *contribution.layers, *contribution.ops)
    assert [item.subject for item in records] == [
        "FirstForCausalLM",
        "OtherForCausalLM",
        "vllm:RMSNorm",
        "rms_norm",
    ]
    decision = Catalog(found, Settings()).decide("FirstForCausalLM", {"model_type": "llama"})
    assert decision.winner.adapter.model == "good:Model"
    assert decision.verdicts[0].reason == "chosen by mszoo_select of plugin first"
    (outcome,) = call_hook(found.manager, "mszoo_model_loaded", {"decision": decision, "model": None})
    assert outcome.error is None


BY_CONFIG = """
@hookimpl
def mszoo_model_adapters():
    return [ModelAdapter("A", "good:Short", priority=1)]

@hookimpl
def mszoo_select(suites, config, candidates):
    if config is None:
        return None
    config["layers"].clear()
    return candidates[suites.index("long")] if config["length"] > 4096 else None
"""
LONG = "@hookimpl\ndef mszoo_model_adapters():\n    return [ModelAdapter('A', 'good:Long')]\n"


def test_a_plugin_chooses_by_the_config(make_plugin):
    plugins = [make_plugin(BY_CONFIG, "short", "short-dist"), make_plugin(LONG, "long", "long-dist")]
    found = discover(Settings(), plugins)
    catalog = Catalog(found, Settings())
    config = {"length": 8192, "layers": [1]}
    names = [
        catalog.decide("A", item).winner.suite.name for item in (None, config, {"length": 1, "layers": []})
    ]
    assert names == ["short", "long", "short"]
    assert config == {"length": 8192, "layers": [1]}
    assert catalog.problems == ()
    # A lock holds the decision that it has; a suite that was asked for by name is asked alone.
    assert Catalog(found, Settings(lock=Path("x"))).decide("A", config).winner.suite.name == "short"
    assert catalog.decide("short.A", config).winner.suite.name == "short"


def test_what_is_to_go_is_named(make_plugin):
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.hook.mszoo_select.spec.warn_on_impl = DeprecationWarning(
        "mszoo_select goes with 0.9: use mszoo_rank"
    )
    entry_point = make_plugin(FIRST, "first", "first-dist")
    (problem,) = load_plugins(manager, Settings(), [entry_point]).problems
    assert str(problem) == (
        "plugin 'first' (first-dist 1.0): uses what is to go: mszoo_select goes with 0.9: use mszoo_rank. "
        "Fix or upgrade first-dist, or set MSZOO_DISABLE=first to go on without it."
    )
