"""Decisions about layers and ops: ranked like models, and ops that nothing would ever call are reported."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mszoo.kernels.spec import SPECS
from mszoo.registry import LayerAdapter, ModelAdapter, OpAdapter, Suite
from mszoo.registry import known_ops as ops_module
from mszoo.registry.catalog import Catalog
from mszoo.registry.discovery import Contribution, Discovery, discover
from mszoo.registry.entry_points import Plugin
from mszoo.registry.known_ops import known_ops
from mszoo.registry.settings import Settings

MANAGER = discover(Settings(), []).manager
NORM = "vllm:RMSNorm"


def build(suites, settings=None, device="cpu"):
    """Build a catalog from ``{suite: records of any kind}``."""
    contributions = []
    for name, records in suites.items():
        kinds = [
            tuple(item for item in records if isinstance(item, kind))
            for kind in (ModelAdapter, LayerAdapter, OpAdapter)
        ]
        contributions.append(Contribution(Plugin(name, f"{name}-dist", "1", name), Suite(name), *kinds))
    discovery = Discovery(tuple(contributions), (), (), MANAGER)
    return Catalog(discovery, settings or Settings(), device, {"present": "1"}.get)


def layer(target=NORM, implementation="package:Norm", **changes):
    return LayerAdapter(target, implementation, **changes)


def op(name="rms_norm", implementation="package:rms_norm", kernel_set="mindspore", **changes):
    return OpAdapter(name, implementation, kernel_set, **changes)


def verdicts(decision):
    return [(item.candidate.suite.name, item.status, item.reason) for item in decision.verdicts]


def texts(catalog):
    return [str(problem) for problem in catalog.problems]


@pytest.mark.parametrize(
    ("record", "decisions", "subject"),
    [
        (layer, Catalog.layer_decisions, NORM),
        (op, Catalog.op_decisions, "rms_norm"),
    ],
)
def test_they_are_ranked_like_models(record, decisions, subject):
    suites = {"native": [record()], "zeta": [record(priority=1)], "alpha": [record(devices=["npu"])]}
    (decision,) = decisions(build(suites)).values()
    assert decision.subject == subject
    assert not decision.pinned
    assert verdicts(decision) == [
        ("zeta", "won", "higher priority (1 > 0)"),
        ("native", "fallback", "lower priority (0 < 1)"),
        ("alpha", "unavailable", "runs on npu, not on cpu: serve it on npu"),
    ]
    assert decision.winner.qualified_name == f"zeta.{subject}"
    (decision,) = decisions(build(suites, Settings(prefer=("native",)))).values()
    assert verdicts(decision)[0] == ("native", "won", "MSZOO_PREFER puts native first")


@pytest.mark.parametrize(
    ("record", "decisions"), [(layer, Catalog.layer_decisions), (op, Catalog.op_decisions)]
)
def test_a_dtype_makes_adapters_for_others_unavailable(record, decisions):
    catalog = build({"a": [record(dtypes=["float16", "bfloat16"])]})
    (decision,) = decisions(catalog, "float32").values()
    reason = "computes in float16 or bfloat16, not in float32: serve with --dtype float16"
    assert verdicts(decision) == [("a", "unavailable", reason)]
    for dtype in ("float16", "bfloat16", None):
        (decision,) = decisions(catalog, dtype).values()
        assert decision.winner is not None


def test_nothing_given_nothing_decided():
    catalog = build({"a": [ModelAdapter("A", "m:X")]})
    assert (catalog.layer_decisions(), catalog.op_decisions()) == ({}, {})


def test_a_digest_counts_layers_and_ops_only_where_there_are_some():
    model = ModelAdapter("A", "m:X")
    alone = build({"a": [model]}).digest()
    assert alone == "1712f71810ab"
    others = [
        build({"a": [model, *more]}).digest()
        for more in ([layer()], [op()], [op(implementation="other:f")], [layer(), op()])
    ]
    assert len({alone, *others}) == 5


def test_a_layer_twice_in_a_suite():
    catalog = build({"a": [layer(), layer(implementation="b:B"), layer(devices=["npu"])]})
    who = "plugin 'a' (a-dist 1): suite 'a' has two adapters for vllm:RMSNorm"
    text = f"{who}: b:B is kept, package:Norm is skipped"
    assert texts(catalog) == [f"{text}. Give only one, or give them different devices."] * 2


def test_an_op_twice_in_a_suite():
    kept = [
        op(),
        op(implementation="p:half", dtypes=["float16"], kernel_set="cpu"),
        op(implementation="p:full", dtypes=["float32"], kernel_set="cpu"),
    ]
    catalog = build({"a": kept})
    assert texts(catalog) == []
    decision = catalog.op_decisions()["rms_norm"]
    assert [item.adapter.implementation for item in decision.chain] == [
        "p:full",
        "p:half",
        "package:rms_norm",
    ]
    reason = "a gives several of one priority: in the order of their implementations' names"
    assert [item.reason for item in decision.verdicts] == [reason] * 3
    catalog = build({"a": [*kept, op(implementation="a:f")]})
    text = "suite 'a' has two adapters for rms_norm: a:f is kept, package:rms_norm is skipped"
    hint = "Give only one, or give them different devices, dtypes or kernel sets."
    assert texts(catalog) == [f"plugin 'a' (a-dist 1): {text}. {hint}"]


def test_the_ops_are_those_of_the_specs():
    assert set(known_ops()) == set(SPECS)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("rms_nrom", "Did you mean rms_norm? "),
        ("ops.silu_and_mul", "Did you mean silu_and_mul? "),
        ("zzz", ""),
    ],
)
def test_an_op_that_does_not_exist_is_a_dead_registration(name, meant):
    catalog = build({"a": [op(name, implementation="p:f")]})
    who = f"plugin 'a' (a-dist 1): registers p:f for op {name!r}, which does not exist: it would never run"
    hint = f"{meant}The ops are {', '.join(known_ops())}; MindSpore primitives are written in CamelCase"
    assert texts(catalog) == [f"{who}. {hint}."]
    assert catalog.problems[0].plugin == "a"


@pytest.mark.parametrize("name", [*known_ops(), "RmsNorm", "ops.FlashAttentionScore"])
def test_ops_and_primitives_are_no_problem(name):
    catalog = build({"a": [op(name)]})
    assert texts(catalog) == []
    assert catalog.op_decisions()[name].winner.adapter.is_primitive == (name not in known_ops())


@pytest.mark.parametrize(
    ("suite", "changes", "prefer", "device", "reason"),
    [
        ("alpha", {}, (), "cpu", None),
        ("alpha", {"priority": -1}, (), "cpu", None),
        ("alpha", {"priority": 2}, (), "cpu", "higher priority (2 > 0)"),
        ("alpha", {}, ("alpha",), "cpu", "MSZOO_PREFER puts alpha first"),
        ("alpha", {"priority": 2}, ("native",), "cpu", None),
        ("native", {}, (), "cpu", None),
        ("native", {"priority": 1}, (), "cpu", "higher priority (1 > 0)"),
        ("mindformers", {}, (), "cpu", None),
        ("mindformers", {}, (), "npu", "suite order: mindformers before native"),
    ],
)
def test_our_own_ops_rank_as_suite_native(suite, changes, prefer, device, reason):
    suites = {"native": [], "alpha": [], suite: [op(**changes)]}
    catalog = build(suites, Settings(prefer=prefer), device)
    assert catalog.why_before_own(catalog.op_decisions()["rms_norm"].winner) == reason


SUITES = ("native", "mindformers", "mindone", "alpha", "zeta")
OPTIONS = {
    "requires": st.sampled_from([(), ("present",), ("absent",)]),
    "devices": st.sampled_from([("cpu",), ("npu",), ("cpu", "npu")]),
    "dtypes": st.sampled_from([("float32",), ("float16",), ("float32", "float16")]),
    "priority": st.integers(-1, 1),
}
CODE = st.sampled_from(["m:X", "m:Y"])
records = st.one_of(
    st.builds(ModelAdapter, architecture=st.sampled_from(["A", "B"]), model=CODE, **OPTIONS),
    st.builds(LayerAdapter, target=st.sampled_from([NORM, "s:m:C"]), implementation=CODE, **OPTIONS),
    st.builds(
        OpAdapter,
        op=st.sampled_from(["rms_norm", "RmsNorm", "rms_nrom"]),
        implementation=CODE,
        kernel_set=st.sampled_from(["mindspore", "cpu"]),
        **OPTIONS,
    ),
)
contents = st.dictionaries(st.sampled_from(SUITES), st.lists(records, max_size=8))
settings_of = st.builds(
    Settings, prefer=st.lists(st.sampled_from(SUITES), unique=True, max_size=2).map(tuple)
)
DTYPE = st.sampled_from([None, "float32", "float16"])


def everything(catalog, dtype):
    return catalog.decisions() | catalog.layer_decisions(dtype) | catalog.op_decisions(dtype)


@given(contents, settings_of, st.sampled_from(["cpu", "npu"]), DTYPE, st.randoms(use_true_random=False))
def test_decisions_do_not_depend_on_discovery_order(suites, settings, device, dtype, shuffler: random.Random):
    names = list(suites)
    shuffler.shuffle(names)
    shuffled = {name: shuffler.sample(suites[name], len(suites[name])) for name in names}
    first, second = build(suites, settings, device), build(shuffled, settings, device)
    assert everything(first, dtype) == everything(second, dtype)
    assert first.digest() == second.digest()
    assert sorted(texts(first)) == sorted(texts(second))


@given(
    contents,
    settings_of,
    DTYPE,
    st.sampled_from(["model", "layer", "op"]),
    st.sampled_from(["device", "need"]),
)
def test_an_unavailable_adapter_never_changes_a_decision(suites, settings, dtype, kind, cause):
    unavailable = {"devices": ["npu"]} if cause == "device" else {"requires": ["absent"]}
    extra = {
        "model": ModelAdapter("A", "extra:X", priority=9, **unavailable),
        "layer": layer(implementation="extra:X", priority=9, **unavailable),
        "op": op(implementation="extra:X", priority=9, **unavailable),
    }[kind]
    before = everything(build(suites, settings), dtype)
    after = everything(build({**suites, "extra": [extra]}, settings), dtype)
    assert [item.candidate.adapter for item in after[extra.subject].verdicts].count(extra) == 1
    for subject, decision in before.items():
        assert after[subject].chain == decision.chain
        rest = [item for item in after[subject].verdicts if item.candidate.adapter is not extra]
        assert rest == list(decision.verdicts)
    assert {subject for subject, item in after.items() if item.chain} == {
        subject for subject, item in before.items() if item.chain
    }


def test_who_specifies_ops_badly_is_told_and_stops_nobody(make_entry_point, make_module, monkeypatch):
    bad = make_entry_point(make_module("raise SystemExit('no ops')"), "bad", "bad-dist", group="mszoo.ops")
    good = make_entry_point(
        make_module("SPECS = {'known': 1}") + ":SPECS", "good", "good-dist", group="mszoo.ops"
    )
    monkeypatch.setattr(ops_module, "readable", lambda group: ([bad, good], []))
    ops_module._read.cache_clear()
    try:
        assert known_ops() == ("known",)
        (problem,) = ops_module.ops_problems()
        assert str(problem).startswith(
            "ops 'bad' of bad-dist 1.0: can't be loaded (SystemExit: no ops (plugin_under_test_"
        )
        assert problem.hint == "Fix or upgrade bad-dist, or uninstall it."
    finally:
        ops_module._read.cache_clear()
