"""The doctor on suites: what they require, the classes that they name, and their plugins."""

from __future__ import annotations

import dataclasses
import sys

from mszoo.registry import ModelAdapter, Suite
from mszoo.registry.cli.doctor.suites import check_classes, check_plugins, check_suites

from .doctor_facts import texts


def owned_by_mszoo(catalog):
    """Make the one plugin of a catalog that of mszoo's own distribution."""
    (contribution,) = catalog.discovery.contributions
    own = dataclasses.replace(contribution.plugin, distribution="mszoo")
    contributions = (dataclasses.replace(contribution, plugin=own),)
    catalog.discovery = dataclasses.replace(catalog.discovery, contributions=contributions)
    return catalog


def test_suites(make_catalog):
    suite = Suite("mindone", requires=["mindone>=0.5"], install="pip install --no-deps mindone==0.5.0")
    models = [ModelAdapter("A", "good:A"), ModelAdapter("B", "good:B", devices=["npu"])]
    for installed, why in (({}, "which is not installed"), ({"mindone": "0.4"}, "but 0.4 is installed")):
        catalog = make_catalog({suite: models[:1]}, installed=installed)
        (finding,) = check_suites(catalog, installed.get)
        assert (finding.level, str(finding)) == (
            "warning",
            f"suite mindone: none of its 1 models can run on cpu: needs mindone>=0.5, {why}. "
            "To use it: pip install --no-deps mindone==0.5.0",
        )
    catalog = make_catalog({"part": models})
    (finding,) = check_suites(catalog)
    assert str(finding) == (
        "suite part: only 1 of its 2 models can run on cpu: runs on npu, not on cpu. Serve it on npu"
    )
    assert list(check_suites(make_catalog({"good": models[:1]}))) == []


def test_our_own_adapters_for_a_suite_that_is_absent_are_an_info(make_catalog):
    suite = Suite("mindone", requires=["mindone>=0.5"], install="pip install mindone")
    catalog = owned_by_mszoo(make_catalog({suite: [ModelAdapter("A", "a:A")]}))
    assert [item.level for item in check_suites(catalog, {}.get)] == ["info"]
    assert [item.level for item in check_suites(catalog, {"mindone": "0.4"}.get)] == ["warning"]


def test_a_suite_that_is_there_and_lacks_something_is_a_warning(make_catalog):
    requires = ["mindformers==2.1.0", "deprecated", "wrapt"]
    suite = Suite("mindformers", requires=requires, install="make suites")
    for installed, level, why in (
        (
            {},
            "info",
            "mindformers==2.1.0, which is not installed and deprecated, which is not installed and "
            "wrapt, which is not installed",
        ),
        (
            {"deprecated": "1.3", "wrapt": "2"},
            "info",
            "mindformers==2.1.0, which is not installed",
        ),
        ({"mindformers": "2.1.0", "deprecated": "1.3"}, "warning", "wrapt, which is not installed"),
        (
            {"mindformers": "2.0.0", "deprecated": "1.3", "wrapt": "2"},
            "warning",
            "mindformers==2.1.0, but 2.0.0 is installed",
        ),
    ):
        catalog = owned_by_mszoo(make_catalog({suite: [ModelAdapter("A", "a:A")]}, installed=installed))
        assert texts(check_suites(catalog, installed.get)) == [
            (
                level,
                f"suite mindformers: none of its 1 models can run on cpu: needs {why}. To use it: make suites",
            )
        ]


def test_refused_models_are_no_finding(make_catalog):
    models = [ModelAdapter("A", "a:A"), ModelAdapter("B", "a:B", refused="it is a legacy class")]
    assert list(check_suites(make_catalog({"mindformers": models}))) == []
    models.append(ModelAdapter("C", "a:C", devices=["npu"]))
    (finding,) = check_suites(make_catalog({"mindformers": models}))
    assert finding.what == "only 1 of its 2 models can run on cpu: runs on npu, not on cpu"


def test_classes(make_catalog, make_module):
    module = make_module("class Model: pass\n")
    dynamic = make_module("def __getattr__(name): return object\n")
    paths = {"A": f"{module}:Model", "B": f"{module}:Gone", "C": f"{dynamic}:Made", "D": "absent.mod:Model"}
    paths |= {"E": f"{module}.sub:Model", "F": "sys:path"}
    catalog = make_catalog({"demo": [ModelAdapter(name, path) for name, path in paths.items()]})
    hint = "Fix or upgrade demo-dist. Or go on without the plugin: export MSZOO_DISABLE=demo"
    assert texts(check_classes(catalog)) == [
        (
            "problem",
            f"demo.B of demo-dist 1.0: names {module}:Gone, and module {module} defines no Gone. {hint}",
        ),
        (
            "problem",
            f"demo.D of demo-dist 1.0: names absent.mod:Model, and there is no module absent.mod. {hint}",
        ),
        (
            "problem",
            f"demo.E of demo-dist 1.0: names {module}.sub:Model, and there is no module {module}.sub. {hint}",
        ),
    ]
    assert module not in sys.modules


def test_plugins_are_told_with_the_disable_that_keeps_the_others(make_catalog):
    from mszoo.registry.settings import Settings

    settings = Settings(prefer=("ghost",), disabled=frozenset({"zeta"}))
    models = [ModelAdapter("A", "a:A"), ModelAdapter("A", "a:B")]
    catalog = make_catalog({"demo": models}, settings)
    assert texts(check_plugins(catalog)) == [
        (
            "problem",
            "MSZOO_PREFER: names 'ghost', which is not a suite here. Known suites: demo. Or: unset MSZOO_PREFER",
        ),
        (
            "problem",
            "plugin 'demo' (demo-dist 1.0): suite 'demo' has two adapters for A: a:A is kept, a:B is skipped. Give "
            "only one, or give them different devices. "
            "Or go on without the plugin: export MSZOO_DISABLE=demo,zeta",
        ),
    ]
