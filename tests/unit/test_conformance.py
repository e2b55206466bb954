"""The static tier of conformance and its rules, on plugins made for it: what it refuses, and in which words."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from mszoo.conformance import LayerConformance, ModelConformance, OpConformance
from mszoo.conformance.base import available
from mszoo.registry import ModelAdapter, Suite
from mszoo.registry.cli.check import anonymous
from mszoo.registry.cli.check.report import check_json, print_report, read_page, write_markdown
from mszoo.registry.cli.check.run import Result, Subject
from mszoo.registry.decisions import Candidate
from mszoo.registry.entry_points import Plugin
from mszoo.registry.errors import MszooError
from mszoo.registry.load import load_catalog
from mszoo.registry.objects import find_module, missing_object

SUITES = ("good", "typo", "plain", "noconfig", "loud", "heavy")
PLUGIN = """
from mszoo.registry import ModelAdapter, Suite, hookimpl

{extra}

@hookimpl
def mszoo_suite():
    return Suite("{suite}", description="for a test")

@hookimpl
def mszoo_model_adapters():
    config = {config}
    return [ModelAdapter("TinyForCausalLM", "{model}", example_config=config, refused="{refused}")]
"""
MODELS = """
from mindspore import nn
from mszoo.layers import CausalLM

class TinyForCausalLM(CausalLM):
    pass

class Plain(nn.Cell):
    pass
"""
CONFIG = {"architectures": ["TinyForCausalLM"], "model_type": "tiny"}
PARTS: dict[str, dict[str, Any]] = {
    "typo": {"model": "tinymodels:TinyForCausalML"},
    "plain": {"model": "tinymodels:Plain"},
    "noconfig": {"config": {}},
    "loud": {"extra": "print('welcome')"},
    "heavy": {"extra": "import mindspore"},
    "cells": {
        "extra": """
from mszoo.registry import LayerAdapter

@hookimpl
def mszoo_layer_adapters():
    names = ["tinymodels:TinyForCausalLM", "tinymodels.TinyForCausalLM:Norm", "tinymodels:Gone"]
    return [LayerAdapter(f"cells:{name}", "tinymodels:TinyForCausalLM") for name in names]
"""
    },
    "legacy": {"model": "nowhere:Legacy", "refused": "it is a legacy class"},
}
CLASSES = """
import pytest
from mszoo.conformance import ModelConformance, SuiteConformance, static

class TestGood(ModelConformance):
    architecture = "good.TinyForCausalLM"

    @static
    def test_of_its_own(self):
        pass

class TestSuite(SuiteConformance):
    suite = "good"

class Other(ModelConformance):
    architecture = "good.TinyForCausalLM"
    name = None

    @classmethod
    def subject(cls):
        return cls.__name__

class TestSilent(Other):
    def test_example_config(self):
        pass

class TestDropped(Other):
    test_example_config = None

class TestUnexplained(Other):
    @pytest.mark.xfail(reason=" ")
    def test_example_config(self):
        assert False

@pytest.mark.skip(reason="no time")
class TestSkipped(Other):
    pass

class TestSkippedBelow(TestSkipped):
    pass

@pytest.mark.xfail
class TestGivenUp(Other):
    pass

class TestExplained(Other):
    @pytest.mark.xfail(reason="its config is a secret")
    def test_example_config(self):
        assert False

class TestTypo(ModelConformance):
    architecture = "typo.TinyForCausalLM"

class TestPlain(ModelConformance):
    architecture = "plain.TinyForCausalLM"

class TestNoConfig(ModelConformance):
    architecture = "noconfig.TinyForCausalLM"

class TestLoud(ModelConformance):
    architecture = "loud.TinyForCausalLM"

class TestHeavy(ModelConformance):
    architecture = "heavy.TinyForCausalLM"

class TestUnknown(ModelConformance):
    architecture = "good.TinyForCausalML"

class TestUnqualified(ModelConformance):
    architecture = "TinyForCausalLM"
"""
GUARD = "test_overridden_tests_say_why"


def make_site(folder: Path, extra_entry_points: str = "", suites: tuple[str, ...] = SUITES) -> Path:
    """Install a distribution with one plugin per suite; ``mindspore`` is a stand-in that imports at once."""
    for suite in suites:
        parts = {
            "suite": suite,
            "extra": "",
            "config": CONFIG,
            "model": "tinymodels:TinyForCausalLM",
            "refused": "",
        }
        source = PLUGIN.format(**(parts | PARTS.get(suite, {})))
        (folder / f"plugin_{suite}.py").write_text(source)
    (folder / "tinymodels.py").write_text(MODELS)
    (folder / "mindspore.py").touch()
    info = folder / "tiny_dist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-dist\nVersion: 1.0\n")
    lines = "\n".join(f"{suite} = plugin_{suite}" for suite in suites)
    (info / "entry_points.txt").write_text(f"[mszoo]\n{lines}\n{extra_entry_points}")
    return folder


def run(site: Path, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python where the distribution is installed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MSZOO_")}
    environ = {"PYTHONPATH": str(site), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "300"}
    return subprocess.run(
        [sys.executable, *command],
        check=False,
        cwd=cwd or site,
        env=inherited | environ,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, Any]]]:
    """All results by adapter and test, of one run of pytest."""
    folder = tmp_path_factory.mktemp("conformance")
    site = make_site(tmp_path_factory.mktemp("site"))
    (folder / "test_it.py").write_text(CLASSES)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    options = ["-p", "mszoo.conformance.plugin", "-p", "no:cacheprovider", "--mszoo-tier", "static"]
    done = run(site, "-m", "pytest", "-q", *options, "--mszoo-log", "log", "test_it.py", cwd=folder)
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for line in (folder / "log").read_text().splitlines():
        entry = json.loads(line)
        if "collected" not in entry:
            found.setdefault(entry["adapter"], {})[entry["test"]] = entry
    return found


def failures(results: dict[str, dict[str, dict[str, Any]]], adapter: str) -> dict[str, str]:
    return {
        name: entry["reason"]
        for name, entry in results[adapter].items()
        if entry["outcome"] in ("failed", "error")
    }


def test_a_good_adapter_passes_with_a_test_of_its_own(results) -> None:
    assert failures(results, "good.TinyForCausalLM") == {}
    found = results["good.TinyForCausalLM"]
    assert {entry["outcome"] for entry in found.values()} == {"passed"}
    assert {entry["tier"] for entry in found.values()} == {"static"}
    assert "test_of_its_own" in found
    assert not any(name.startswith("test_logits") for name in found)  # of a higher tier
    assert failures(results, "good") == {}
    assert {entry["kind"] for entry in results["good"].values()} == {"suite"}


@pytest.mark.parametrize("adapter", ["TestSilent", "TestDropped", "TestUnexplained"])
def test_overriding_needs_a_reason(adapter: str, results) -> None:
    expected = f"{adapter}.test_example_config overrides a standard test: mark it "
    assert failures(results, adapter).keys() == {GUARD}
    assert (
        expected + "pytest.mark.xfail(reason='...'), or give it another name"
        in failures(results, adapter)[GUARD]
    )


@pytest.mark.parametrize("adapter", ["TestSkipped", "TestSkippedBelow", "TestGivenUp"])
def test_a_class_can_not_be_skipped(adapter: str, results) -> None:
    expected = f"{adapter} is skipped or expected to fail as a whole: mark single tests"
    assert expected in failures(results, adapter)[GUARD]


def test_a_reasoned_expected_failure_is_reported(results) -> None:
    assert failures(results, "TestExplained") == {}
    entry = results["TestExplained"]["test_example_config"]
    assert (entry["outcome"], entry["reason"]) == ("xfailed", "its config is a secret")
    assert entry["tier"] == "static"  # that of the test it overrides


def test_the_guard_itself_can_not_be_overridden() -> None:
    with pytest.raises(TypeError, match="Sly overrides test_overridden_tests_say_why, which no class may"):
        type("Sly", (ModelConformance,), {GUARD: lambda self: None})


@pytest.mark.parametrize(
    ("adapter", "test", "said"),
    [
        (
            "typo.TinyForCausalLM",
            "test_implementation_exists",
            "module tinymodels defines no TinyForCausalML",
        ),
        (
            "plain.TinyForCausalLM",
            "test_model_is_one_that_vllm_can_be_given",
            "tinymodels:Plain is derived from mindspore.nn:Cell, so vLLM can't be given it. Serve a "
            "network of MindSpore cells by a mszoo.layers.network.NetworkForCausalLM, as `mszoo new NAME --kind "
            "cells` writes it; otherwise derive it from mszoo.layers.CausalLM or Encoder",
        ),
        ("noconfig.TinyForCausalLM", "test_example_config", "example_config is missing: give the fields of"),
        ("loud.TinyForCausalLM", "test_registering_is_light", "registering prints to stdout: 'welcome\\n'"),
        (
            "heavy.TinyForCausalLM",
            "test_registering_is_light",
            "registering imports mindspore: move the import into the model's module",
        ),
    ],
)
def test_faults_are_named(adapter: str, test: str, said: str, results) -> None:
    found = failures(results, adapter)
    # A heavy import is also a problem of the plugin.
    assert found.keys() == ({test, "test_registered"} if adapter.startswith("heavy") else {test})
    assert said in found[test]


def test_an_adapter_that_is_not_there(results) -> None:
    reasons = failures(results, "good.TinyForCausalML")
    assert (
        "no model good.TinyForCausalML is registered. Did you mean good.TinyForCausalLM?"
        in reasons["test_registered"]
    )
    said = "TestUnqualified.architecture is 'TinyForCausalLM': qualify it, such as native.TinyForCausalLM"
    assert said in failures(results, "TinyForCausalLM")["test_registered"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("json:JSONDecoder", None),
        ("json.decoder:JSONDecoder.decode", None),
        ("json:Nothing", "module json defines no Nothing"),
        ("json.nowhere:X", "there is no module json.nowhere"),
        ("nowhere_at_all.models:X", "there is no module nowhere_at_all.models"),
        ("math:pi", None),
        ("mszoo.models.llama:LlamaForCausalLM", None),
        ("mszoo.models.llama:LamaForCausalLM", "module mszoo.models.llama defines no LamaForCausalLM"),
        ("mszoo.models.lama:LlamaForCausalLM", "there is no module mszoo.models.lama"),
    ],
)
def test_missing_object(path: str, expected: str | None) -> None:
    assert missing_object(path) == expected


def test_looking_for_code_imports_nothing(tmp_path: Path) -> None:
    package = tmp_path / "boom"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "models.py").write_text("raise SystemExit('imported')\nif 1:\n    class A: pass\n")
    code = "from mszoo.registry.objects import missing_object as m; print(m('boom.models:A'), m('boom.models:B'))"
    done = run(tmp_path, "-c", code)
    assert done.stdout == "None module boom.models defines no B\n", done.stderr


CLI = ("-c", "from mszoo.registry.cli import main; main()", "check", "--tier", "static")


def test_check_reports_on_everything(tmp_path: Path) -> None:
    site = make_site(tmp_path, suites=("good", "typo"))
    done = run(site, *CLI, "--json", "--report", "matrix.md")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    tiers = {item["adapter"]: item["tiers"]["static"] for item in report["adapters"]}
    assert tiers["good"] == tiers["typo"] == tiers["good.TinyForCausalLM"] == "passed"
    assert tiers["native.LlamaForCausalLM"] == "passed"
    assert tiers["typo.TinyForCausalLM"] == "failed"
    assert "typo.TinyForCausalLM static" in done.stderr  # progress
    matrix = (site / "matrix.md").read_text()
    assert "| `good.TinyForCausalLM` | model | tiny-dist 1.0 | 9 passed | not run | not run |" in matrix
    assert "- `typo.TinyForCausalLM` static `test_implementation_exists`: tinymodels" in matrix


def test_check_runs_nothing_of_a_refused_model_and_shows_why(tmp_path: Path) -> None:
    site = make_site(tmp_path, suites=("good", "legacy"))
    done = run(site, *CLI, "TinyForCausalLM", "--report", "matrix.md")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Refused (1):\n- legacy.TinyForCausalLM: it is a legacy class" in done.stdout
    matrix = (site / "matrix.md").read_text()
    assert "| `legacy.TinyForCausalLM` |" not in matrix
    assert "- `legacy.TinyForCausalLM`: it is a legacy class" in matrix
    done = run(site, *CLI, "legacy.TinyForCausalLM", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    (item,) = json.loads(done.stdout)["adapters"]
    assert (item["refused"], item["tests"]) == ("it is a legacy class", [])
    assert set(item["tiers"].values()) == {"not run"}


def test_check_of_cells_finds_those_that_the_suite_lacks(tmp_path: Path) -> None:
    files = ("--report", "matrix.md", "--html", "matrix.html")
    done = run(make_site(tmp_path, suites=("cells",)), *CLI, "cells", "--json", *files)
    assert done.returncode == 1, done.stderr
    html = (tmp_path / "matrix.html").read_text()
    assert "<summary>cells.cells:tinymodels:Gone</summary>" in html
    assert "test_target_exists: failed" in html and str(tmp_path) not in html
    layers = [item for item in json.loads(done.stdout)["adapters"] if item["kind"] == "layer"]
    assert {item["adapter"]: item["tiers"]["static"] for item in layers} == {
        "cells.cells:tinymodels:TinyForCausalLM": "passed",
        "cells.cells:tinymodels.TinyForCausalLM:Norm": "failed",
        "cells.cells:tinymodels:Gone": "failed",
    }
    assert {item["code"] for item in layers} == {"tinymodels:TinyForCausalLM"}
    matrix = (tmp_path / "matrix.md").read_text()
    row = "| `cells.tinymodels:TinyForCausalLM for 3 layers` | layer | tiny-dist 1.0 | 2 failed, 19 passed |"
    assert row in matrix
    why = "the replacement would never run: module tinymodels defines no Gone"
    assert f"- `cells.cells:tinymodels:Gone` static `test_target_exists`: {why}" in matrix


@pytest.mark.parametrize(
    ("target", "status"),
    [("good", 0), ("good.TinyForCausalLM", 0), ("typo", 1), ("TinyForCausalLM", 1), ("native", 0)],
)
def test_check_of_one_target(target: str, status: int, tmp_path: Path) -> None:
    done = run(make_site(tmp_path, suites=("good", "typo")), *CLI, target)
    assert done.returncode == status, done.stdout + done.stderr
    assert ("Failed (1):" in done.stdout) == bool(status)


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("TinyForCausalML", "Did you mean TinyForCausalLM?"),
        ("Zzz", "`mszoo list` shows what is registered."),
    ],
)
def test_check_of_an_unknown_target(target: str, hint: str, tmp_path: Path) -> None:
    done = run(make_site(tmp_path, suites=("good",)), *CLI, target)
    assert done.returncode == 2
    assert (
        done.stderr
        == f"mszoo check: {target} is neither a suite nor an architecture, layer or op of one. {hint}\n"
    )


def test_check_obeys_the_settings(tmp_path: Path) -> None:
    """What MSZOO_DISABLE or the lock leaves out isn't tested, and nothing is where something differs."""
    site = make_site(tmp_path, suites=("good", "typo"))
    code = "import os, sys; os.environ.update(dict(item.split('=', 1) for item in sys.argv[1].split(';')));"
    code += "sys.argv[1:2] = []; from mszoo.registry.cli import main; main()"

    def check(settings: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(site, "-c", code, settings, *arguments)

    nobody = "mszoo check: typo is neither a suite nor an architecture, layer or op of one. "
    static = ("check", "--tier", "static")
    done = check("MSZOO_DISABLE=typo", *static, "typo")
    assert (done.returncode, done.stderr) == (
        2,
        f"{nobody}MSZOO_DISABLE leaves typo out: unset MSZOO_DISABLE.\n",
    )
    path = site / "the.lock"
    assert check("MSZOO_DISABLE=typo", "lock", str(path)).returncode == 0
    done = check(f"MSZOO_LOCK={path};MSZOO_DISABLE=", *static, "typo")
    assert (done.returncode, done.stderr) == (
        2,
        f"{nobody}{path} doesn't list typo: lock it with `mszoo lock`, or unset MSZOO_LOCK.\n",
    )
    done = check(f"MSZOO_LOCK={path};MSZOO_DISABLE=", *static, "good")
    assert done.returncode == 0, done.stdout + done.stderr
    (site / "tinymodels.py").write_text("raise SystemExit('it ran')")
    done = check(f"MSZOO_LOCK={path};MSZOO_DISABLE=", *static, "good")
    assert done.returncode == 2
    assert "nothing is served, this differs: plugin 'good': the code of tinymodels is not what" in done.stderr
    assert "it ran" not in done.stdout + done.stderr


def test_check_of_another_device(tmp_path: Path) -> None:
    done = run(make_site(tmp_path, suites=("good",)), *CLI, "--device", "npu")
    assert done.returncode == 2
    assert done.stderr == (
        "mszoo check: vLLM serves on cpu here, not on npu. "
        "See what keeps it from npu: mszoo doctor --device npu\n"
    )


def test_check_of_this_device(tmp_path: Path) -> None:
    done = run(make_site(tmp_path, suites=("good",)), *CLI, "cpu", "--device", "cpu", "--json")
    (item,) = json.loads(done.stdout)["adapters"]
    assert (item["kind"], item["adapter"], item["suite"]) == ("device", "cpu", "")
    assert [test["test"] for test in item["tests"]] == ["test_overridden_tests_say_why", "test_set_up"]


def test_a_report_says_nothing_of_whose_machine_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "build-7")
    monkeypatch.setattr(anonymous, "_addresses", lambda host: {"10.1.2.3"})
    monkeypatch.setattr(Path, "home", lambda: Path("/home/anna"))
    text = "build-7 at 10.1.2.3 (not build-77) reads /home/anna/models with sesame-open; 2.10.1 is a version"
    expected = "<host> at <address> (not build-77) reads <home>/models with <HF_TOKEN>; 2.10.1 is a version"
    assert anonymous.anonymous(text, {"HF_TOKEN": "sesame-open", "SHORT_KEY": "is"}) == expected


def own_classes(site: Path, body: str) -> Path:
    """Give the package a module of conformance classes."""
    header = "import pytest\nfrom mszoo.conformance import ModelConformance, static\n"
    (site / "own_conformance.py").write_text(header + textwrap.dedent(body))
    return site


OWN = "[mszoo.conformance]\ngood = own_conformance\n"


def test_check_uses_the_classes_of_the_package(tmp_path: Path) -> None:
    body = """
        class TestTiny(ModelConformance):
            architecture = "good.TinyForCausalLM"

            @static
            @pytest.mark.xfail(reason="kept secret")
            def test_example_config(self):
                assert False
    """
    done = run(own_classes(make_site(tmp_path, OWN, ("good",)), body), *CLI, "good.TinyForCausalLM")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "Expected to fail (1):\n- good.TinyForCausalLM, static, test_example_config: kept secret"
        in done.stdout
    )
    assert "8 passed, 1 expected to fail" in done.stdout


def test_check_survives_a_test_that_ends_the_process(tmp_path: Path) -> None:
    body = """
        class TestTiny(ModelConformance):
            architecture = "good.TinyForCausalLM"

            @static
            def test_of_its_own(self):
                import os
                os._exit(7)
    """
    done = run(own_classes(make_site(tmp_path, OWN, ("good",)), body), *CLI, "good.TinyForCausalLM")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "test_of_its_own: the test process ended with status 7 in this test:" in done.stdout


def test_check_names_a_module_that_does_not_load(tmp_path: Path) -> None:
    done = run(own_classes(make_site(tmp_path, OWN, ("good",)), "import nowhere_at_all"), *CLI, "good")
    assert done.returncode == 1
    assert "pytest ended with status 2 and ran nothing:" in done.stdout
    assert "No module named 'nowhere_at_all'" in done.stdout


def test_a_report_goes_into_the_marked_block_only(tmp_path: Path) -> None:
    site = make_site(tmp_path, suites=("good",))
    page = site / "page.md"
    page.write_text("# Before\n<!-- mszoo check: begin -->\nold\n<!-- mszoo check: end -->\nafter\n")
    assert run(site, *CLI, "good", "--report", "page.md").returncode == 0
    text = page.read_text()
    assert text.startswith("# Before\n<!-- mszoo check: begin -->\nTested with mszoo ")
    assert text.endswith("<!-- mszoo check: end -->\nafter\n")
    assert "old" not in text.splitlines()
    page.write_text("# Mine\n")
    done = run(site, *CLI, "good", "--report", "page.md")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "page.md: exists and has no marked block. Add the lines <!-- mszoo check: begin --> and "
        "<!-- mszoo check: end --> where the matrix goes, or name a new file."
    )
    assert page.read_text() == "# Mine\n"


def test_a_report_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(MszooError) as raised:
        read_page(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path}: can't be read ([Errno 21] Is a directory")
    assert raised.value.hint == "Name another file."
    document = check_json(load_catalog({}), [], [], "static")
    page = tmp_path / "nowhere" / "page.md"
    with pytest.raises(MszooError) as raised:
        write_markdown(document, page)
    assert str(raised.value) == (
        f"{page}: can't be written (No such file or directory). Give another place, or mend this one."
    )


def test_dtypes_to_leave_out_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    catalog = load_catalog(device="cpu")
    dtypes = ("float32", "bfloat16", "float16")

    def results(name: str, **outcomes: str) -> tuple[Subject, list[Result]]:
        found = [
            Result(
                name, "op", "numeric", f"test_values[{dtype}-{tokens}]", outcomes.get(dtype, "passed"), "why"
            )
            for dtype in dtypes
            for tokens in (1, 3)
        ]
        return Subject("op", name, "acme", "acme-dist 1.0", {}, "acme:op", dtypes=dtypes), found

    subjects, found = zip(
        results("acme.right"),
        results("acme.narrow", float16="failed", bfloat16="error"),
        results("acme.wrong", **dict.fromkeys(dtypes, "failed")),
        strict=True,
    )
    document = check_json(catalog, subjects, [item for items in found for item in items], "numeric")
    assert {item["adapter"]: item["leave_out"] for item in document["adapters"]} == {
        "acme.right": [],
        "acme.narrow": ["bfloat16", "float16"],
        "acme.wrong": [],  # wrong in all: none of them is the reason
    }
    print_report(document, ())
    text = " ".join(capsys.readouterr().out.split())
    what = "fails in bfloat16 and float16 alone: mend it there, or declare dtypes=['float32']"
    assert f"Dtypes to leave out: - acme.narrow {what}" in text


def test_what_depends_on_a_missing_op_layer_or_code_is_skipped() -> None:
    """The static tier fails with it once; the numeric tier has nothing to run."""

    class TestOp(OpConformance):
        suite, op = "native", "rms_nrom"

    with pytest.raises(
        pytest.skip.Exception, match=r"rms_nrom is no op of mszoo\.kernels\.spec, so there is"
    ):
        TestOp().test_values("float32", 1)
    with pytest.raises(
        AssertionError, match=r"rms_nrom is no op of mszoo\.kernels\.spec; override reference"
    ):
        TestOp().test_op_exists()

    class TestLayer(LayerConformance):
        suite, target = "native", "vllm:RMSNrom"

    if find_module("vllm") is not None:
        with pytest.raises(pytest.skip.Exception, match="vLLM has no replaceable layer RMSNrom, so there is"):
            TestLayer().test_values("float32", 1)

    class TestModel(ModelConformance):
        architecture = "native.GoneForCausalLM"

        @classmethod
        def find(cls) -> tuple[Candidate, None]:
            adapter = ModelAdapter("GoneForCausalLM", "json:Gone")
            return Candidate(adapter, Suite("native"), Plugin("native", "mszoo", "1.0", "somewhere")), None

    with pytest.raises(pytest.skip.Exception, match="there is nothing to run: module json defines no Gone"):
        available(TestModel)
