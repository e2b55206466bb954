"""Sixty bad plugins at once: all that is good is served, each bad one is named once, and the exit codes tell it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from importlib.metadata import entry_points, version

import pytest

from mszoo.adapters.native import mszoo_model_adapters

from ..bad_plugins import BAD, install_bad_plugins

#: mszoo's other suites, which say elsewhere what they have.
APART = {item.name for item in entry_points(group="mszoo") if item.module.startswith("mszoo.adapters.")}
APART -= {"native"}
NATIVE = tuple(record.architecture for record in mszoo_model_adapters())


@pytest.fixture(scope="module")
def mszoo(tmp_path_factory):
    """Run the installed command where the bad plugins are; the runs are shared."""
    folder = tmp_path_factory.mktemp("bad")
    environ = install_bad_plugins(folder)
    runs = {}

    def run(*arguments, **extra):
        key = (arguments, tuple(extra.items()))
        if key not in runs:
            runs[key] = subprocess.run(
                ["mszoo", *arguments],
                check=False,
                env=environ | extra,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=120,
            )
        return runs[key]

    return run


@pytest.fixture(scope="module")
def listed(mszoo):
    return json.loads(mszoo("list", "--json").stdout)


@pytest.fixture(scope="module")
def findings(mszoo):
    return json.loads(mszoo("doctor", "--json").stdout)["findings"]


def test_exit_codes(mszoo):
    for command in ("list", "doctor"):
        result = mszoo(command, "--json")
        assert result.returncode == 1, result.stderr
        assert "Traceback" not in result.stderr


def test_what_plugins_print_is_not_in_the_json(mszoo):
    result = mszoo("list", "--json")
    assert result.stderr.count("{noise}") == 3
    assert "{noise}" not in result.stdout


def test_all_that_is_good_is_served(listed):
    winners = {
        item["architecture"]: item["winner"]
        for item in listed["architectures"]
        if {candidate["suite"] for candidate in item["candidates"]} - APART
    }
    kept = {name: f"{plugin}.{name}" for plugin, bad in BAD.items() for name in bad.keeps}
    others = {"GoodModel": "good.GoodModel", "TwinModel": "twin.TwinModel"}
    others |= {"BareModel": "bare.BareModel", "BinaryModel": "binary.BinaryModel", "UnmetModel": None}
    native = {name: f"native.{name}" for name in NATIVE}
    assert {name: winners.get(name) for name in native} == native
    assert {name: winner for name, winner in winners.items() if name not in native} == kept | others


@pytest.mark.parametrize("name", [name for name, bad in BAD.items() if bad.problem])
def test_a_bad_plugin_is_named_once_with_the_cure(listed, name):
    (problem,) = [item for item in listed["problems"] if item["plugin"] == name]
    distribution = f"bad-{name.replace('_', '-')}"
    assert problem["who"] == f"plugin {name!r} ({distribution} 1.0)"
    assert f"{problem['what']}. {problem['mend']}".startswith(BAD[name].problem)
    assert problem["mend"].endswith((".", "?"))
    assert len(problem["what"]) < 700


MENDS = {
    "hook_asks_for_the_catalog": "Ask for it later: mszoo_select gets the candidates.",
    "standard_library": "Rename the module: whichever comes first on the path hides the other.",
    "endless": "Give one record per model, layer or op.",
    "forged": "Call ModelAdapter() with all its arguments.",
    "imports_mindspore": "Import it in the modules that the records name, not in the plugin.",
    "changes_variables": "Leave vLLM's and mszoo's variables to the operator.",
    "starts_a_thread": "Start it where the model is built: vLLM may fork, and a forked process has no such thread.",
    "forks": "Use subprocess, where the model is built: mszoo ends forked children that go on with its work.",
}


@pytest.mark.parametrize("name", MENDS)
def test_the_cure_in_full(listed, name):
    (problem,) = [item for item in listed["problems"] if item["plugin"] == name]
    assert problem["mend"] == MENDS[name]


def test_nobody_else_is_blamed(listed):
    named = Counter(item["plugin"] for item in listed["problems"])
    assert set(named) == {name for name, bad in BAD.items() if bad.problem} | {"twin", None}
    assert named["twin"] == 1
    texts = [
        f"{item['who']}: {item['what']}" for item in listed["problems"] if item["plugin"] in ("twin", None)
    ]
    assert sorted(texts)[0].startswith("distribution torn-dist: its entry_points.txt can't be read (")
    assert sorted(texts)[1:] == [
        "plugin 'twin' (twin-b 1.0): has the name of plugin 'twin' (twin-a 1.0), which was found first; this one "
        "is skipped"
    ]


def test_damaged_metadata_still_has_a_name(listed):
    sources = {item["name"]: f"{item['distribution']} {item['version']}" for item in listed["suites"]}
    assert (sources["bare"], sources["binary"]) == ("bare_dist 1.0", "binary_dist 1.0")
    assert sources["native"] == f"mszoo {version('mszoo')}"


def test_the_doctor_has_all_of_it_and_a_command_for_each(listed, findings):
    by_who = Counter(item["who"] for item in findings if item["level"] == "problem")
    for problem in listed["problems"]:
        assert by_who[problem["who"]] == 1
    for name, bad in BAD.items():
        if bad.problem:
            (finding,) = [item for item in findings if item["who"].startswith(f"plugin {name!r} ")]
            assert finding["mend"].endswith(f"export MSZOO_DISABLE={name}")


@pytest.mark.parametrize("name", [name for name, bad in BAD.items() if bad.finding])
def test_the_doctor_sees_what_discovery_cant(findings, name):
    level, text = BAD[name].finding
    own = (f"{name}.", f"suite {name}")
    (finding,) = [item for item in findings if item["who"].startswith(own)]
    assert (finding["level"], finding["what"]) == (level, text)
    assert finding["mend"].endswith((f"export MSZOO_DISABLE={name}", "pip install 'no-such-dist>=9'"))


def test_the_cure_works(mszoo):
    named = [name for name, bad in BAD.items() if bad.problem or bad.finding]
    result = mszoo("list", "--json", MSZOO_DISABLE=",".join([*named, "twin"]))
    report = json.loads(result.stdout)
    assert [item["who"] for item in report["problems"]] == ["distribution torn-dist"]
    suites = {item["name"] for item in report["suites"]}
    assert suites - APART == {"native", "good", "prints", "bare", "binary"}


def test_there_are_enough():
    assert len(BAD) >= 30


@pytest.mark.parametrize(
    ("target", "adapter", "outcome"),
    [
        ("native", "native.LlamaForCausalLM", "passed"),
        ("no_such_class", "no_such_class.NamelessModel", "failed"),
        ("imports_mindspore", "imports_mindspore", "failed"),
    ],
)
def test_check_tells_it_too(mszoo_check, target, adapter, outcome):
    result = mszoo_check(target)
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    static = {item["adapter"]: item["tiers"]["static"] for item in json.loads(result.stdout)["adapters"]}
    assert static[adapter] == outcome


@pytest.fixture(scope="module")
def mszoo_check(tmp_path_factory):
    """Run the command without the torn metadata, which no pytest survives."""
    folder = tmp_path_factory.mktemp("checked")
    environ = install_bad_plugins(folder)
    for path in folder.rglob("torn*"):
        shutil.rmtree(path)

    def run(target):
        return subprocess.run(
            ["mszoo", "check", target, "--tier", "static", "--json"],
            check=False,
            env=environ,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run
