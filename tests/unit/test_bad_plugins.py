"""Bad plugins by the hundred at once: what is good is served, each bad one named once, and exit codes tell it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from importlib.metadata import entry_points, version

import pytest

from mszoo.adapters.native import mszoo_model_adapters

from ..bad_plugins import BAD, HEAVY, LIGHT, install_bad_plugins

#: mszoo's other suites, which say elsewhere what they have.
APART = {item.name for item in entry_points(group="mszoo") if item.module.startswith("mszoo.adapters.")}
APART -= {"native"}
FEW = (HEAVY, "no_such_class", "class_raises", "exits_at_import", "hook_exits")
NATIVE = tuple(record.architecture for record in mszoo_model_adapters())


class Command:
    """Runs the installed command where bad plugins are; the runs are shared."""

    def __init__(self, folder, environ):
        self.folder, self.environ, self.runs = folder, environ, {}

    def __call__(self, *arguments, **extra):
        key = (arguments, tuple(extra.items()))
        if key not in self.runs:
            self.runs[key] = subprocess.run(
                ["mszoo", *arguments],
                check=False,
                env=self.environ | extra,
                cwd=self.folder,
                capture_output=True,
                text=True,
                timeout=300,
            )
        return self.runs[key]


@pytest.fixture(scope="module")
def mszoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    return Command(folder, install_bad_plugins(folder))


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
    assert result.stderr.count("{noise}") == 5  # a child that a plugin forked doesn't print again
    assert "{noise}" not in result.stdout


def test_all_that_is_good_is_served(listed):
    winners = {
        item["architecture"]: item["winner"]
        for item in listed["architectures"]
        if {candidate["suite"] for candidate in item["candidates"]} - APART
    }
    kept = {name: f"{plugin}.{name}" for plugin in LIGHT for name in BAD[plugin].keeps}
    others = {"GoodModel": "good.GoodModel", "TwinModel": "twin.TwinModel"}
    others |= {"EscapedModel": "escaped.EscapedModel"}
    others |= {"BareModel": "bare.BareModel", "BinaryModel": "binary.BinaryModel", "UnmetModel": None}
    native = {name: f"native.{name}" for name in NATIVE}
    assert {name: winners.get(name) for name in native} == native
    assert {name: winner for name, winner in winners.items() if name not in native} == kept | others


@pytest.fixture(scope="module")
def heavy_listed(few):
    return json.loads(few("list", "--json").stdout)


@pytest.fixture
def problems(request, name):
    """The problems that are listed where a plugin is."""
    return request.getfixturevalue("heavy_listed" if name == HEAVY else "listed")["problems"]


@pytest.mark.parametrize("name", [name for name, bad in BAD.items() if bad.problem])
def test_a_bad_plugin_is_named_once_with_the_cure(problems, name):
    (problem,) = [item for item in problems if item["plugin"] == name]
    distribution = f"bad-{name.replace('_', '-')}"
    named = f"plugin {name!r}" if name.startswith("select_") else f"plugin {name!r} ({distribution} 1.0)"
    assert problem["who"] == named
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
def test_the_cure_in_full(problems, name):
    (problem,) = [item for item in problems if item["plugin"] == name]
    assert problem["mend"] == MENDS[name]


LONG = "long" * 50 + "... (400000 characters)"
#: By the plugin that is named, what is told about the others.
OTHERS = {
    "twin": "plugin 'twin' (twin-b 1.0): has the name of plugin 'twin' (twin-a 1.0), which was found first; this",
    LONG: f"plugin {LONG!r} (long-dist 1.0): can't be loaded (ModuleNotFoundError: No module named 'long_plugin')",
}
NOBODYS = (
    "distribution flood-dist: declares 200 entry points of one group; all are ignored. "
    "Reinstall it, or declare at most",
    "distribution torn-dist: its entry_points.txt can't be read (",
)


def test_nobody_else_is_blamed(listed):
    named = Counter(item["plugin"] for item in listed["problems"])
    assert set(named) == {name for name in LIGHT if BAD[name].problem} | {*OTHERS, None}
    texts: dict[str | None, list[str]] = {}
    for item in listed["problems"]:
        texts.setdefault(item["plugin"], []).append(f"{item['who']}: {item['what']}. {item['mend']}")
    for name, text in OTHERS.items():
        assert len(texts[name]) == 1
        assert texts[name][0].startswith(text)
    for found, text in zip(sorted(texts[None]), NOBODYS, strict=True):
        assert found.startswith(text)


ODD = r"\x1b]0;red\x07 $(touch owned)"


def test_text_from_outside_is_safe_to_print(mszoo, listed):
    (escaped,) = [item for item in listed["suites"] if item["name"] == "escaped"]
    assert escaped["plugin"] == ODD
    assert f"{escaped['distribution']} {escaped['version']}" == r"escaped-\x1b[31mdist 1\u202e0"
    result = mszoo("doctor")
    assert result.returncode == 1
    for text in (result.stdout, result.stderr):
        assert all(line.isprintable() for line in text.splitlines())


def test_a_lock_survives_what_the_list_survives(mszoo, listed):
    written = mszoo("lock", "bad.lock", "--json")
    assert written.returncode == 1
    assert json.loads(written.stdout)["problems"] == listed["problems"]
    locked = json.loads(mszoo("list", "--json", MSZOO_LOCK=str(mszoo.folder / "bad.lock")).stdout)
    assert locked["digest"] == listed["digest"]
    assert all(item in listed["problems"] for item in locked["problems"])  # what isn't listed isn't loaded


def test_damaged_metadata_still_has_a_name(listed):
    sources = {item["name"]: f"{item['distribution']} {item['version']}" for item in listed["suites"]}
    assert (sources["bare"], sources["binary"]) == ("bare_dist 1.0", "binary_dist 1.0")
    assert sources["native"] == f"mszoo {version('mszoo')}"


def test_the_doctor_has_all_of_it_and_a_command_for_each(listed, findings):
    by_who = Counter(item["who"] for item in findings if item["level"] == "problem")
    for problem in listed["problems"]:
        assert by_who[problem["who"]] == 1
    for name in LIGHT:
        if BAD[name].problem:
            (finding,) = [
                item
                for item in findings
                if item["who"] == f"plugin {name!r}" or item["who"].startswith(f"plugin {name!r} ")
            ]
            assert finding["mend"].endswith(f"export MSZOO_DISABLE={name}")


@pytest.mark.parametrize("name", [name for name, bad in BAD.items() if bad.finding])
def test_the_doctor_sees_what_discovery_cant(findings, name):
    level, text = BAD[name].finding
    own = (f"{name}.", f"suite {name}")
    (finding,) = [item for item in findings if item["who"].startswith(own)]
    assert (finding["level"], finding["what"]) == (level, text)
    assert finding["mend"].endswith((f"export MSZOO_DISABLE={name}", "pip install 'no-such-dist>=9'"))


CURED = [*(name for name in LIGHT if BAD[name].problem or BAD[name].finding), *OTHERS]


def test_the_cure_works(mszoo):
    result = mszoo("list", "--json", MSZOO_DISABLE=",".join([ODD, *CURED]))
    report = json.loads(result.stdout)
    assert report["disabled"].count(ODD) == 1  # an odd name is known as it is shown
    assert sorted(item["who"] for item in report["problems"]) == [
        "distribution flood-dist",
        "distribution torn-dist",
    ]
    suites = {item["name"] for item in report["suites"]}
    good = {name for name, bad in BAD.items() if not bad.problem and not bad.finding}
    assert suites - APART == {"native", "good", "bare", "binary", *good}


def test_there_are_enough():
    assert len(BAD) >= 150


@pytest.mark.parametrize(
    ("target", "adapter", "outcome"),
    [
        ("native", "native.LlamaForCausalLM", "passed"),
        ("no_such_class", "no_such_class.NamelessModel", "failed"),
        ("imports_mindspore", "imports_mindspore", "failed"),
    ],
)
def test_check_tells_it_too(few, target, adapter, outcome):
    result = few("check", target, "--tier", "static", "--json")
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    static = {item["adapter"]: item["tiers"]["static"] for item in json.loads(result.stdout)["adapters"]}
    assert static[adapter] == outcome


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Where some bad plugins are, and not the torn metadata, which no pytest survives."""
    folder = tmp_path_factory.mktemp("few")
    environ = install_bad_plugins(folder, FEW)
    for path in folder.rglob("torn*"):
        shutil.rmtree(path)
    return Command(folder, environ)
