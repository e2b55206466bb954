"""The catalog: who wins, why the others lose, and that nothing but the inputs decides it."""

from __future__ import annotations

import random
import string
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mszoo.registry import ModelAdapter, Suite
from mszoo.registry.catalog import Catalog
from mszoo.registry.discovery import Contribution, Discovery, discover
from mszoo.registry.entry_points import Plugin
from mszoo.registry.errors import SettingsError
from mszoo.registry.load import load_catalog
from mszoo.registry.settings import Settings


def model(architecture="Arch", **changes):
    return ModelAdapter(architecture, changes.pop("model", "package:Class"), **changes)


def verdicts(decision):
    return [(item.candidate.suite.name, item.status, item.reason) for item in decision.verdicts]


def texts(catalog):
    return [str(problem) for problem in catalog.problems]


def test_one_candidate(make_catalog):
    catalog = make_catalog({"native": [model()]})
    decision = catalog.decide("Arch")
    assert verdicts(decision) == [("native", "won", "the only one available here")]
    assert decision.winner is catalog.candidates["Arch"][0]
    assert decision.winner.qualified_name == "native.Arch"
    assert decision.chain == (decision.winner,)
    assert not decision.pinned
    assert catalog.architectures == ("Arch",)
    assert catalog.decisions() == {"Arch": decision}


def test_an_unknown_architecture_has_no_verdicts(make_catalog):
    catalog = make_catalog({"native": [model()]})
    for name in ("Other", "mindone.Arch", "", ".", "native.", ".Arch"):
        decision = catalog.decide(name)
        assert (decision.verdicts, decision.winner, decision.chain) == ((), None, ())


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (
            "cpu",
            [
                ("native", "won", "suite order: native before mindformers"),
                ("mindformers", "fallback", "suite order: native before mindformers"),
                ("mindone", "fallback", "suite order: native before mindone"),
                ("alpha", "fallback", "suite order: native before alpha"),
                ("zeta", "fallback", "suite order: native before zeta"),
            ],
        ),
        (
            "npu",
            [
                ("mindformers", "won", "suite order: mindformers before native"),
                ("native", "fallback", "suite order: mindformers before native"),
                ("mindone", "fallback", "suite order: mindformers before mindone"),
                ("alpha", "fallback", "suite order: mindformers before alpha"),
                ("zeta", "fallback", "suite order: mindformers before zeta"),
            ],
        ),
    ],
)
def test_the_default_order_of_a_device(make_catalog, device, expected):
    suites = {name: [model()] for name in ("zeta", "mindone", "alpha", "native", "mindformers")}
    assert verdicts(make_catalog(suites, device=device).decide("Arch")) == expected


def test_priority_outranks_suite_order(make_catalog):
    catalog = make_catalog({"native": [model()], "mindone": [model(priority=5)]})
    assert verdicts(catalog.decide("Arch")) == [
        ("mindone", "won", "higher priority (5 > 0)"),
        ("native", "fallback", "lower priority (0 < 5)"),
    ]


def test_the_operator_outranks_priority(make_catalog):
    suites = {"native": [model(priority=9)], "mindone": [model()], "other": [model(priority=3)]}
    catalog = make_catalog(suites, Settings(prefer=("other", "mindone")))
    assert verdicts(catalog.decide("Arch")) == [
        ("other", "won", "MSZOO_PREFER puts other first"),
        ("mindone", "fallback", "MSZOO_PREFER puts other first"),
        ("native", "fallback", "MSZOO_PREFER puts other first"),
    ]


def test_an_unknown_preference_is_a_problem(make_catalog):
    catalog = make_catalog({"native": [], "mindone": []}, Settings(prefer=("mindoen",)))
    assert texts(catalog) == [
        "MSZOO_PREFER: names 'mindoen', which is not a suite here. Known suites: mindone, native."
    ]
    assert texts(make_catalog({}, Settings(prefer=("a",)))) == [
        "MSZOO_PREFER: names 'a', which is not a suite here. Known suites: none."
    ]
    assert texts(make_catalog({}, Settings(prefer=("a",), disabled_all=True))) == []


@pytest.mark.parametrize(
    ("suite", "changes", "installed", "reason"),
    [
        (Suite("s"), {"devices": ["npu"]}, {}, "runs on npu, not on cpu: serve it on npu"),
        (
            Suite("s"),
            {"requires": ["mindformers>=1.9"]},
            {},
            "needs mindformers>=1.9, which is not installed: pip install 'mindformers>=1.9'",
        ),
        (
            Suite("s"),
            {"requires": ["mindformers>=1.9", "present"]},
            {"mindformers": "1.8", "present": "0"},
            "needs mindformers>=1.9, but 1.8 is installed: pip install 'mindformers>=1.9'",
        ),
        (
            Suite("s", requires=["a"], install="pip install a-suite"),
            {"requires": ["a", "b<2"]},
            {"b": "2.0"},
            "needs a, which is not installed and b<2, but 2.0 is installed: "
            "pip install a-suite && pip install 'b<2'",
        ),
        (
            Suite("s", requires=["a"]),
            {"requires": ["b"]},
            {},
            "needs a, which is not installed and b, which is not installed: pip install a b",
        ),
        (
            Suite("s", requires=["a"], install="pip install a-suite"),
            {"requires": ["b"]},
            {"a": "1"},
            "needs b, which is not installed: pip install b",
        ),
        (
            Suite("s"),
            {"requires": ["a>1"]},
            {"a": "not a version"},
            "needs a>1, but not a version is installed: pip install 'a>1'",
        ),
    ],
)
def test_an_unavailable_adapter_says_why_and_what_cures_it(make_catalog, suite, changes, installed, reason):
    catalog = make_catalog({suite: [model(**changes)]}, installed=installed)
    decision = catalog.decide("Arch")
    assert verdicts(decision) == [("s", "unavailable", reason)]
    assert decision.winner is None


REFUSED = "its routing needs a kernel that CPUs lack"


def test_a_refused_adapter_is_shown_and_never_chosen(make_catalog):
    refused = model(refused=REFUSED, priority=9, requires=["absent"], devices=["npu"])
    settings = Settings(prefer=("mindformers",))
    catalog = make_catalog({"mindformers": [refused], "native": [model()]}, settings)
    decision = catalog.decide("Arch")
    assert [item[:2] for item in verdicts(decision)] == [("native", "won"), ("mindformers", "unavailable")]
    assert decision.verdicts[1].reason == REFUSED
    pinned = catalog.decide("mindformers.Arch")
    assert (verdicts(pinned), pinned.chain) == ([("mindformers", "unavailable", REFUSED)], ())
    alone = make_catalog({"mindformers": [refused]})
    assert alone.decide("Arch").winner is None  # so vLLM's own model stays
    assert alone.problems == ()


def test_a_model_that_is_not_refused_has_the_digest_that_it_always_had(make_catalog):
    suites = {"native": [model(), model("Other", capabilities=["lora"], example_config={"a": 1})]}
    assert make_catalog(suites).digest() == "a9cadbc57b71"


@pytest.mark.parametrize(
    "requirement",
    ["a", "a>=1,<3", "a==2.1rc1", "a>=2", "b; python_version < '3'", "b; extra == 'x'", "a[extra]"],
)
def test_met_requirements(make_catalog, requirement):
    catalog = make_catalog({"s": [model(requires=[requirement])]}, installed={"a": "2.1rc1"})
    assert catalog.decide("Arch").winner is not None


def test_installed_metadata_is_read_by_default():
    def winner(requirement):
        plugin = Plugin("s", "s-dist", "1", "s")
        contribution = Contribution(plugin, Suite("s"), (model(requires=[requirement]),))
        manager = discover(Settings(), []).manager
        return Catalog(Discovery((contribution,), (), (plugin,), manager), Settings()).decide("Arch").winner

    assert winner("pluggy>=1") is not None
    assert winner("pluggy<1") is None
    assert winner("a-distribution-that-nobody-made") is None


def test_a_qualified_name_pins_the_suite(make_catalog):
    catalog = make_catalog({"native": [model()], "mindone": [model()]})
    decision = catalog.decide("mindone.Arch")
    assert decision.pinned
    assert decision.architecture == "mindone.Arch"
    assert verdicts(decision) == [("mindone", "won", "the only one asked for by its qualified name")]


def test_one_architecture_twice_in_a_suite(make_catalog):
    models = [model(model="b:B"), model(model="a:A"), model(model="c:C", priority=1)]
    catalog = make_catalog({"native": models})
    assert [item.adapter.model for item in catalog.candidates["Arch"]] == ["c:C"]
    who = "plugin 'native' (native-dist 1.0): suite 'native' has two adapters for Arch: c:C is kept"
    hint = "Give only one, or give them different devices."
    assert texts(catalog) == [f"{who}, {name} is skipped. {hint}" for name in ("a:A", "b:B")]
    assert catalog.problems[0].plugin == "native"


def test_one_architecture_for_two_devices_in_a_suite(make_catalog):
    models = [model(model="a:A", devices=["npu"]), model(model="b:B", devices=["cpu"])]
    for device, winner in (("cpu", "b:B"), ("npu", "a:A")):
        catalog = make_catalog({"native": models}, device=device)
        assert texts(catalog) == []
        assert catalog.decide("native.Arch").winner.adapter.model == winner


TWO_MODELS = """
@hookimpl
def mszoo_model_adapters():
    return [ModelAdapter("Arch", "{name}:Model")]
"""
SELECT = """
@hookimpl
def mszoo_select(architecture, candidates):
    {body}
"""


def select_catalog(make_plugin, body):
    entry_points = [make_plugin(TWO_MODELS.format(name=name), name=name) for name in ("a", "b")]
    entry_points.append(make_plugin(SELECT.format(body=body), name="chooser"))
    return Catalog(discover(Settings(), entry_points), Settings())


def test_select_moves_a_candidate_to_the_front(make_plugin):
    catalog = select_catalog(make_plugin, "return candidates[1] if architecture == 'Arch' else None")
    assert verdicts(catalog.decide("Arch")) == [
        ("b", "won", "chosen by mszoo_select of plugin chooser"),
        ("a", "fallback", "mszoo_select of plugin chooser chose b"),
    ]
    assert texts(catalog) == []
    assert catalog.decide("a.Arch").winner.suite.name == "a"


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("raise ValueError('boom')", "raised ValueError: boom (FILE:5)"),
        ("exit(1)", "raised SystemExit: 1"),
        ("return 'b'", "returned a str instead of a candidate or None"),
        ("return ModelAdapter('Arch', 'c:C')", "returned c:C, which is not a candidate"),
    ],
)
def test_a_bad_select_is_a_problem_and_ignored(make_plugin, body, what):
    catalog = select_catalog(make_plugin, body)
    assert verdicts(catalog.decide("Arch")) == [
        ("a", "won", "suite order: a before b"),
        ("b", "fallback", "suite order: a before b"),
    ]
    file = f"{catalog.discovery.plugins[-1].value}.py"
    (problem,) = catalog.problems
    assert str(problem).startswith(f"plugin 'chooser': mszoo_select {what.replace('FILE', file)}")
    assert str(problem).endswith(
        ", for Arch; it is ignored. Return one of the candidates or None, or set MSZOO_DISABLE=chooser."
    )
    assert problem.plugin == "chooser"


def test_select_of_none_leaves_the_order(make_plugin):
    catalog = select_catalog(make_plugin, "return None")
    assert catalog.decide("Arch").winner.suite.name == "a"
    assert texts(catalog) == []


def test_the_digest_tells_decisions_apart(make_catalog):
    suites = {"native": [model()], "mindone": [model()]}
    digest = make_catalog(suites).digest()
    assert len(digest) == 12
    assert set(digest) <= set(string.hexdigits)
    assert make_catalog(suites).digest() == digest
    assert make_catalog(suites, Settings(prefer=("mindone",))).digest() != digest
    assert make_catalog({"native": [model()]}).digest() != digest
    older = make_catalog(suites)
    plugin = replace(older.discovery.contributions[0].plugin, version="0.9")
    first, second = older.discovery.contributions
    discovery = replace(older.discovery, contributions=(replace(first, plugin=plugin), second))
    assert Catalog(discovery, Settings()).digest() != digest


def test_ten_thousand_adapters_do_not_slow_a_look_up(make_catalog):
    models = [model(f"Arch{index}", requires=["present>=1"]) for index in range(10_000)]
    start = time.perf_counter()
    catalog = make_catalog({"native": models}, installed={"present": "1"})
    catalog.digest()
    assert time.perf_counter() - start < 5
    start = time.perf_counter()
    for _ in range(1_000):
        catalog.decide("Arch9999")
    assert time.perf_counter() - start < 0.1


def test_load_catalog():
    catalog = load_catalog({"MSZOO_DISABLE": "1"}, device="npu")
    assert (catalog.device, catalog.architectures, catalog.problems) == ("npu", (), ())
    with pytest.raises(SettingsError):
        load_catalog({"MSZOO_KERNELS": "x"})


SUITES = ("native", "mindformers", "mindone", "alpha", "zeta")
adapters = st.builds(
    ModelAdapter,
    architecture=st.sampled_from(["A", "B", "C"]),
    model=st.sampled_from(["m:X", "m:Y", "m:Z"]),
    requires=st.sampled_from([(), ("present",), ("absent",)]),
    devices=st.sampled_from([("cpu",), ("npu",), ("cpu", "npu")]),
    priority=st.integers(-1, 1),
)
contents = st.dictionaries(st.sampled_from(SUITES), st.lists(adapters, max_size=4))
settings_of = st.builds(
    Settings, prefer=st.lists(st.sampled_from(SUITES), unique=True, max_size=2).map(tuple)
)
MANAGER = discover(Settings(), []).manager


def build(suites, settings, device="cpu"):
    contributions = tuple(
        Contribution(Plugin(name, f"{name}-dist", "1", name), Suite(name), tuple(models))
        for name, models in suites.items()
    )
    discovery = Discovery(contributions, (), (), MANAGER)
    return Catalog(discovery, settings, device, {"present": "1"}.get)


@given(contents, settings_of, st.sampled_from(["cpu", "npu"]), st.randoms(use_true_random=False))
def test_decisions_do_not_depend_on_discovery_order(suites, settings, device, shuffler: random.Random):
    names = list(suites)
    shuffler.shuffle(names)
    shuffled = {name: shuffler.sample(suites[name], len(suites[name])) for name in names}
    first, second = build(suites, settings, device), build(shuffled, settings, device)
    assert first.decisions() == second.decisions()
    assert first.digest() == second.digest()
    assert sorted(texts(first)) == sorted(texts(second))


UNAVAILABLE = ({"devices": ["npu"]}, {"requires": ["absent"]}, {"refused": REFUSED})


@given(contents, settings_of, st.sampled_from(["A", "B", "C"]), st.sampled_from(UNAVAILABLE))
def test_an_unavailable_adapter_never_changes_a_chain(suites, settings, architecture, unavailable):
    extra = model(architecture, model="extra:X", priority=100, **unavailable)
    before = build(suites, settings)
    after = build({**suites, "extra": [extra]}, settings)
    assert {name: item.chain for name, item in before.decisions().items()} == {
        name: item.chain for name, item in after.decisions().items() if name in before.candidates
    }
    assert extra in [item.candidate.adapter for item in after.decide(architecture).verdicts]
