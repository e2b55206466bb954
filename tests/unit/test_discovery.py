"""Discovery: good plugins are found, and each fault of a plugin is one Problem that stops nobody else."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from mszoo.registry import LayerAdapter, ModelAdapter, OpAdapter, Suite
from mszoo.registry.discovery import discover
from mszoo.registry.settings import Settings

GOOD = """
@hookimpl
def mszoo_suite():
    return Suite("good", "A good suite")

@hookimpl
def mszoo_model_adapters():
    yield ModelAdapter("GoodModel", "good:Model")

@hookimpl
def mszoo_layer_adapters():
    return [LayerAdapter("vllm:RMSNorm", "good:Norm")]

@hookimpl
def mszoo_op_adapters():
    return (OpAdapter("rms_norm", "good:rms_norm", "cpu"),)
"""
WHO = "plugin 'demo' (demo-dist 1.0): "
CURE = "Fix or upgrade demo-dist, or set MSZOO_DISABLE=demo to go on without it."
HOOKS = (
    "The hooks are mszoo_suite, mszoo_model_adapters, mszoo_layer_adapters, mszoo_op_adapters, mszoo_select, "
    "mszoo_doctor_checks, mszoo_commands, mszoo_model_loaded."
)
FORGOT = (
    "has no hook implementation. "
    "Did you forget @hookimpl? Import it from mszoo.registry and put it on each hook."
)


def texts(discovery):
    return [str(problem) for problem in discovery.problems]


def test_a_good_plugin(make_plugin):
    discovery = discover(
        Settings(), [make_plugin(GOOD, name="good", distribution="good-dist", version="2.1")]
    )
    assert texts(discovery) == []
    (contribution,) = discovery.contributions
    assert str(contribution.plugin) == "plugin 'good' (good-dist 2.1)"
    assert discovery.plugins == (contribution.plugin,)
    assert contribution.suite == Suite("good", "A good suite")
    assert contribution.models == (ModelAdapter("GoodModel", "good:Model"),)
    assert contribution.layers == (LayerAdapter("vllm:RMSNorm", "good:Norm"),)
    assert contribution.ops == (OpAdapter("rms_norm", "good:rms_norm", "cpu"),)


def test_an_object_as_plugin_and_a_suite_named_after_it(make_plugin):
    source = """
    class Adapters:
        @hookimpl
        def mszoo_model_adapters(self):
            return {ModelAdapter("A", "a:A")}

    plugin = Adapters()
    """
    discovery = discover(Settings(), [make_plugin(source, attribute=":plugin")])
    assert texts(discovery) == []
    assert discovery.contributions[0].suite == Suite("demo")
    assert [item.architecture for item in discovery.contributions[0].models] == ["A"]


def hook(body, name="mszoo_model_adapters()"):
    return f"@hookimpl\ndef {name}:\n    {body}\n"


BAD = {
    "import error": (
        "import no_such_module",
        f"can't be loaded (ModuleNotFoundError: No module named 'no_such_module' (FILE:2)). {CURE}",
        0,
    ),
    "exit at import": ("import sys; sys.exit(3)", f"can't be loaded (SystemExit: 3 (FILE:2)). {CURE}", 0),
    "syntax error": ("def", "can't be loaded (SyntaxError: invalid syntax", 0),
    "hook raises": (
        hook("raise ValueError('boom')"),
        f"mszoo_model_adapters raised ValueError: boom (FILE:4). {CURE}",
        0,
    ),
    "hook exits": (hook("raise SystemExit"), f"mszoo_model_adapters raised SystemExit (FILE:4). {CURE}", 0),
    "hook returns None": (
        hook("pass"),
        "mszoo_model_adapters returned None instead of an iterable. Return a list of ModelAdapter records.",
        0,
    ),
    "hook returns one record": (
        hook("return ModelAdapter('A', 'a:A')"),
        "mszoo_model_adapters returned a ModelAdapter instead of an iterable. "
        "Return a list of ModelAdapter records.",
        0,
    ),
    "hook returns a string": (
        hook("return 'a:A'"),
        "mszoo_model_adapters returned a str instead of an iterable. Return a list of ModelAdapter records.",
        0,
    ),
    "one record of a wrong type": (
        hook("return [ModelAdapter('A', 'a:A'), Suite('b'), ModelAdapter('C', 'a:C')]"),
        "item 1 of mszoo_model_adapters is a Suite instead of a ModelAdapter; it is skipped. "
        "Return ModelAdapter records only.",
        2,
    ),
    "generator raises midway": (
        hook("yield ModelAdapter('A', 'a:A')\n    raise OSError('gone')"),
        f"mszoo_model_adapters raised after 1 items OSError: gone (FILE:5). {CURE}",
        1,
    ),
    "bad requirement": (
        hook("yield ModelAdapter('A', 'a:A')\n    yield ModelAdapter('B', 'a:B', requires=['x=>1'])"),
        "mszoo_model_adapters raised after 1 items RecordError: ModelAdapter('B'): requires is 'x=>1'. "
        "Set it to a requirement string such as 'mindformers>=1.9'.",
        1,
    ),
    "bad model path": (
        hook("return [ModelAdapter('B', 'a.B')]"),
        "mszoo_model_adapters raised RecordError: ModelAdapter('B'): model is 'a.B'. "
        "Set it to 'module:Class'.",
        0,
    ),
    "misspelt hook": (
        hook("return []", "mszoo_model_adapter()"),
        "mszoo_model_adapter is not a hook. Did you mean mszoo_model_adapters? It is ignored: it needs a newer "
        f"mszoo. {HOOKS}",
        0,
    ),
    "hook like none": (
        hook("return []", "zzz()"),
        f"zzz is not a hook. It is ignored: it needs a newer mszoo. {HOOKS}",
        0,
    ),
    "unknown argument": (
        hook("return None", "mszoo_select(architecture, engine)"),
        "mszoo_select has an unknown argument 'engine', so it is ignored. Define it as "
        "mszoo_select(architecture, candidates, suites, config). As it is, it needs a newer mszoo.",
        0,
    ),
    "hook wrapper": (
        "@hookimpl(wrapper=True)\ndef mszoo_suite():\n    return (yield)",
        "mszoo_suite is a hook wrapper. Use plain @hookimpl.",
        0,
    ),
    "no hookimpl": ("def mszoo_suite():\n    return Suite('a')", FORGOT, 0),
    "one hook without hookimpl": (
        hook("return [ModelAdapter('A', 'a:A')]") + "def mszoo_suite():\n    return Suite('a')",
        "mszoo_suite is not marked as a hook, so it is ignored. Put @hookimpl on it.",
        1,
    ),
    "suite of a wrong type": (
        hook("return 'demo'", "mszoo_suite()") + hook("return [ModelAdapter('A', 'a:A')]"),
        "mszoo_suite returned a str instead of a Suite; all its adapters are skipped. "
        "Return one mszoo.registry.Suite.",
        0,
    ),
    "suite raises": (
        hook("return Suite('a b')", "mszoo_suite()") + hook("return [ModelAdapter('A', 'a:A')]"),
        "mszoo_suite raised RecordError: Suite('a b'): name is 'a b'; all its adapters are skipped. "
        "Set it to letters, digits, '_' and '-', such as 'mindone' "
        "('vllm' is taken: it names vLLM's own layers).",
        0,
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_plugin_is_one_problem_and_stops_nobody(make_plugin, case):
    source, text, kept = BAD[case]
    bad = make_plugin(source)
    good = make_plugin(GOOD, name="good", distribution="good-dist")
    discovery = discover(Settings(), [bad, good])
    (problem,) = discovery.problems
    assert str(problem).startswith(WHO + text.replace("FILE", f"{bad.value}.py"))
    assert problem.plugin == "demo"
    models = {item.plugin.name: item.models for item in discovery.contributions}
    assert len(models.pop("demo", ())) == kept
    assert [item.architecture for item in models["good"]] == ["GoodModel"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("no-module!", f"{WHO}its entry point is 'no-module!'. Write 'module' or 'module:object'."),
        (
            "packaging:nothing",
            f"{WHO}can't be loaded (AttributeError: module 'packaging' has no attribute 'nothing'). {CURE}",
        ),
        ("packaging", WHO + FORGOT),
        (
            "packaging.version:Version",
            f"{WHO}its entry point names the class Version, not an object. "
            "Let the entry point name a module or an instance.",
        ),
    ],
)
def test_bad_entry_points(make_plugin, value, text):
    entry_point = EntryPoint("demo", value, "mszoo")
    vars(entry_point).update(dist=make_plugin("").dist)
    assert texts(discover(Settings(), [entry_point])) == [text]


def test_two_distributions_with_one_entry_point_name(make_plugin):
    entry_points = [make_plugin(GOOD, distribution=name) for name in ("zeta", "alpha")]
    discovery = discover(Settings(), entry_points)
    assert texts(discovery) == [
        "plugin 'demo' (zeta 1.0): has the name of plugin 'demo' (alpha 1.0), which was found first; "
        "this one is skipped. Uninstall alpha or zeta, or rename one entry point."
    ]
    assert [plugin.distribution for plugin in discovery.plugins] == ["alpha"]


def test_two_suites_of_one_name(make_plugin):
    entry_points = [make_plugin(GOOD, name=name, distribution=f"{name}-dist") for name in ("b", "a")]
    discovery = discover(Settings(), entry_points)
    assert texts(discovery) == [
        "plugin 'b' (b-dist 1.0): its suite 'good' is already given by plugin 'a' (a-dist 1.0); "
        "this one is skipped. Give the suite another name, or set MSZOO_DISABLE=b."
    ]
    assert [item.plugin.name for item in discovery.contributions] == ["a"]


def test_two_entry_points_to_one_object(make_plugin):
    first = make_plugin(GOOD, name="a")
    second = EntryPoint("b", first.value, "mszoo")
    vars(second).update(dist=first.dist)
    assert texts(discover(Settings(), [second, first])) == [
        "plugin 'b' (demo-dist 1.0): its entry point names the same object as plugin 'a'. "
        "Remove one of the two entry points."
    ]


def test_a_plugin_name_that_cannot_name_a_suite(make_plugin):
    plugin = make_plugin("@hookimpl\ndef mszoo_model_adapters():\n    return []", name="my.plugin")
    assert texts(discover(Settings(), [plugin])) == [
        "plugin 'my.plugin' (demo-dist 1.0): has no mszoo_suite, and its own name can't be that of a suite; "
        "all its adapters are skipped. Add an mszoo_suite hook."
    ]


def test_the_order_is_ours_first_then_by_name(make_plugin):
    source = "@hookimpl\ndef mszoo_model_adapters():\n    return []"
    entry_points = [
        make_plugin(source, name="b"),
        make_plugin(source, name="z", distribution="mszoo"),
        make_plugin(source, name="a"),
    ]
    expected = ["z", "a", "b"]
    for order in (entry_points, entry_points[::-1]):
        discovery = discover(Settings(), order)
        assert [plugin.name for plugin in discovery.plugins] == expected
        assert [item.suite.name for item in discovery.contributions] == expected


def test_the_same_entry_point_seen_twice_is_one(make_plugin):
    plugin = make_plugin(GOOD)
    discovery = discover(Settings(), [plugin, plugin])
    assert texts(discovery) == []
    assert len(discovery.plugins) == 1


def test_disabled_plugins_are_not_imported(make_plugin):
    bad, good = make_plugin("raise RuntimeError"), make_plugin(GOOD, name="good")
    discovery = discover(Settings(disabled=frozenset({"demo", "ghost"})), [bad, good])
    assert bad.value not in sys.modules
    assert texts(discovery) == [
        "MSZOO_DISABLE: names 'ghost', which is not a plugin. Known plugins: demo, good."
    ]
    assert [plugin.name for plugin in discovery.disabled] == ["demo"]
    assert [plugin.name for plugin in discovery.plugins] == ["good"]


def test_disabling_all_imports_nothing(make_plugin):
    plugin = make_plugin(GOOD)
    discovery = discover(Settings(disabled_all=True), [plugin])
    assert plugin.value not in sys.modules
    assert (discovery.plugins, discovery.contributions, discovery.problems) == ((), (), ())
    assert [item.name for item in discovery.disabled] == ["demo"]


def test_what_a_plugin_prints_goes_to_stderr(make_plugin, capsys):
    plugin = make_plugin(
        "print('at import')\n" + hook("print('in hook')\n    yield ModelAdapter('A', 'a:A')")
    )
    assert texts(discover(Settings(), [plugin])) == []
    out, err = capsys.readouterr()
    assert (out, err) == ("", "at import\nin hook\n")


INTERRUPTED = "import signal; signal.raise_signal(signal.SIGINT)"


@pytest.mark.parametrize(
    "source",
    [
        INTERRUPTED,
        hook(INTERRUPTED),
        hook(f"yield ModelAdapter('A', 'a:A')\n    {INTERRUPTED}"),
    ],
)
def test_an_interrupt_from_outside_is_not_swallowed(make_plugin, source):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        discover(Settings(), [make_plugin(source)])
    assert signal.getsignal(signal.SIGINT) is handler


DIST_INFO = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(folder))
from mszoo.registry.discovery import discover
from mszoo.registry.settings import Settings
found = discover(Settings())
print(json.dumps({
    "models": {str(item.plugin): [model.model for model in item.models] for item in found.contributions},
    "problems": [str(problem) for problem in found.problems],
    "heavy": sorted({"vllm", "torch", "mindspore"} & set(sys.modules)),
}))
"""


def install(folder, name, version, entry_points):
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entry_points)


def run_discovery(folder):
    command = [sys.executable, "-c", DIST_INFO, str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_a_real_distribution_is_found(tmp_path):
    install(tmp_path, "real_dist", "3.2", "[mszoo]\nreal = real_plugin\n")
    header = "from mszoo.registry import ModelAdapter, hookimpl\nprint('hello')\n"
    (tmp_path / "real_plugin.py").write_text(header + hook("return [ModelAdapter('Real', 'real:Model')]"))
    result = run_discovery(tmp_path)
    assert result["models"]["plugin 'real' (real_dist 3.2)"] == ["real:Model"]
    assert not [text for text in result["problems"] if "real" in text]
    assert result["heavy"] == []


def test_an_unreadable_distribution_is_named_and_stops_nobody(tmp_path):
    install(tmp_path, "torn_dist", "1.0", "[mszoo]\nthis line has no equals sign\n")
    install(tmp_path, "real_dist", "3.2", "[mszoo]\nreal = real_plugin\n")
    header = "from mszoo.registry import ModelAdapter, hookimpl\n"
    (tmp_path / "real_plugin.py").write_text(header + hook("return [ModelAdapter('Real', 'real:Model')]"))
    result = run_discovery(tmp_path)
    assert result["models"]["plugin 'real' (real_dist 3.2)"] == ["real:Model"]
    (text,) = [text for text in result["problems"] if "torn" in text]
    assert text.startswith("distribution torn_dist: its entry_points.txt can't be read (")
    assert text.endswith("). Reinstall it.")
