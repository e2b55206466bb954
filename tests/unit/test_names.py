"""Names: list, explain, check and doctor know suites, architectures, layers and ops, and what a slip meant."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from mszoo.registry import plugins
from mszoo.registry.cli import build, names
from mszoo.registry.objects import find_module

HAS_VLLM = find_module("vllm") is not None
ACME = """
@hookimpl
def mszoo_suite():
    return Suite("acme", "Models of ACME")

@hookimpl
def mszoo_model_adapters():
    return [ModelAdapter(f"Acme{number}ForCausalLM", f"{__name__}:Model") for number in range(30)]

@hookimpl
def mszoo_layer_adapters():
    return [LayerAdapter("vllm:RMSNorm", f"{__name__}:Norm")] + [
        LayerAdapter(f"acme:acme.a_long_package_name.models.modeling_{number}:AcmeRotary", f"{__name__}:Norm")
        for number in range(12)
    ]

@hookimpl
def mszoo_op_adapters():
    return [OpAdapter("rms_norm", f"{__name__}:norm", "acme"), OpAdapter("RmsNorm", f"{__name__}:norm", "acme")]

class Model: pass
class Norm: pass
def norm(): pass
"""
TYPOS = """
@hookimpl
def mszoo_suite():
    return Suite("typos")

@hookimpl
def mszoo_layer_adapters():
    return [LayerAdapter("vllm:RMSNrom", f"{__name__}:Norm"), LayerAdapter("vllm:SiluAndMul", f"{__name__}:Gone")]

@hookimpl
def mszoo_op_adapters():
    return [OpAdapter("silu_and_mul", f"{__name__}:gone", "typos", priority=1)]

class Norm: pass
"""


@pytest.fixture
def zoo(make_plugin, monkeypatch):
    """Let only our own test plugins be installed; returns their list."""
    installed = [make_plugin(ACME, name="acme", distribution="acme-dist")]
    monkeypatch.setattr(plugins, "readable", lambda group: (installed, []))
    for name in ("MSZOO_PREFER", "MSZOO_DISABLE", "MSZOO_KERNELS", "MSZOO_LOCK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    return installed


def run(*arguments):
    return CliRunner().invoke(build(), list(arguments))


def words(text):
    return " ".join(text.replace("│", " ").split())


def test_list_is_short_and_fits_80_columns(zoo):
    result = run("list")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:3] == [
        "acme: Models of ACME (acme-dist 1.0)",
        "  30 models (30 won), 13 layers, 2 ops",
        "",
    ]
    assert "What one registers: mszoo list SUITE. Who serves, and why: mszoo explain ARCH" in result.stdout
    for shown in ("acme", "--suite=acme"):
        result = run("list", shown)
        assert all(len(line) <= 80 for line in result.stdout.splitlines())
        # Names are whole, each on its own line, and layers with one replacement are one row.
        assert sum(line.startswith("Acme") for line in result.stdout.splitlines()) == 30
        assert "and 10 more; --json names them" in result.stdout


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Acme3ForCausalLM", {"architectures": ["Acme3ForCausalLM"]}),
        ("acme.Acme3ForCausalLM", {"architectures": ["Acme3ForCausalLM"]}),
        ("RMSNorm", {"layers": ["vllm:RMSNorm"]}),
        ("vllm:RMSNorm", {"layers": ["vllm:RMSNorm"]}),
        ("rms_norm", {"ops": ["rms_norm"]}),
        ("RmsNorm", {"ops": ["RmsNorm"]}),
    ],
)
def test_list_shows_the_rows_of_a_name(zoo, name, shown):
    report = json.loads(run("list", name, "--json").stdout)
    found = {kind: [item.get("architecture") or item["subject"] for item in report[kind]]
             for kind in ("architectures", "layers", "ops")}  # fmt: skip
    assert {kind: subjects for kind, subjects in found.items() if subjects} == shown
    text = words(run("list", name).stdout)
    assert "Suite ┃ From ┃ Verdict ┃ Code and reason" in text
    assert "acme acme-dist 1.0 won" in text
    part = next((item for kind in ("layers", "ops") for item in report[kind]), None)
    if part is not None:
        assert part["winner"] == f"acme.{part['subject']}"
        assert [*part["candidates"][0]] == ["name", "suite", "code", "kernel_set", "status", "reason"]


@pytest.mark.parametrize(
    ("command", "name", "said"),
    [
        ("list", "rms_nrom", "mszoo list: rms_nrom is neither a suite, an architecture, a layer nor an op here. "
         "Did you mean rms_norm?"),
        ("list", "acmee", "mszoo list: acmee is neither a suite, an architecture, a layer nor an op here. "
         "Did you mean acme?"),
        ("list", "--suite=acmee", "mszoo list: acmee is no suite here. Did you mean acme?"),
        ("list", "layer_norm", "mszoo list: layer_norm is an op that no suite registers: mszoo's own kernels run "
         "it. See which: mszoo explain layer_norm"),
        ("explain", "acme", "mszoo explain: acme is a suite, not an architecture. "
         "See what it has: mszoo list acme"),
        ("check", "RmsNrom", "mszoo check: RmsNrom is neither a suite nor an architecture, layer or op of one. "
         "Did you mean RmsNorm?"),
    ],
)  # fmt: skip
def test_slips(zoo, command, name, said):
    result = run(command, name, *(("--tier", "static") if command == "check" else ()))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == said


@pytest.mark.skipif(not HAS_VLLM, reason="its layers are read from its source")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SiluAndMul", "no suite replaces vLLM's layer SiluAndMul, so its own code runs. "
         "`mszoo list` shows who replaces layers."),
        ("vllm:SiluAndMull", "vLLM has no replaceable layer 'SiluAndMull'. Did you mean vllm:SiluAndMul?"),
    ],
)  # fmt: skip
def test_layers_that_nobody_replaces(zoo, name, said):
    result = run("explain", name)
    assert (result.exit_code, result.stderr) == (2, f"mszoo explain: {said}\n")


def test_explain_an_op(zoo, monkeypatch):
    report = json.loads(run("explain", "rms_norm", "--json").stdout)
    assert (report["architectures"], report["layers"]) == ([], None)
    (item,) = report["ops"]["ops"]
    assert (item["op"], item["kernel_set"], item["from"]) == ("rms_norm", "cpu", "mszoo")
    assert item["others"][0]["name"] == "acme.rms_norm"
    # A suite's own set, by its name.
    monkeypatch.setenv("MSZOO_KERNELS", "acme")
    result = run("explain", "rms_norm")
    assert result.exit_code == 0
    assert "rms_norm acme acme of" in words(result.stdout)
    assert "MSZOO_KERNELS=acme" in result.stdout
    # Another set was named: that decides, and no priority would help.
    monkeypatch.setenv("MSZOO_KERNELS", "mindspore")
    (item,) = json.loads(run("explain", "rms_norm", "--json").stdout)["ops"]["ops"]
    assert item["reason"] == "MSZOO_KERNELS=mindspore"
    assert item["others"][0]["reason"] == "MSZOO_KERNELS=mindspore leaves out its kernel set, acme"


def test_explain_a_primitive_and_a_layer(zoo):
    (item,) = json.loads(run("explain", "RmsNorm", "--json").stdout)["ops"]["ops"]
    assert (item["op"], item["from"], item["code"].partition(":")[2]) == ("RmsNorm", "acme-dist 1.0", "norm")
    assert run("explain", "RmsNorm").exit_code == 0
    layers = json.loads(run("explain", "AcmeRotary", "--json").stdout)["layers"]
    assert len(layers) == 12 and all(item["in_effect"] for item in layers)
    result = run("explain", "AcmeRotary")
    assert result.exit_code == 0
    assert "Cells of acme, replaced where its model has them" in result.stdout


def test_explain_says_nobody(zoo):
    text = words(run("explain", "Acme3ForCausalLM").stdout)
    assert "Acme3ForCausalLM is served by acme.Acme3ForCausalLM" in text
    text = words(run("explain", "acme.Acme99ForCausalLM").stdout)
    if HAS_VLLM:
        assert "acme.Acme99ForCausalLM is served by nobody" in text
        assert "MiniCPMForCausalLM is served by vLLM's own model" in words(
            run("explain", "MiniCPMForCausalLM").stdout
        )


def test_records_of_layers_and_ops_that_are_not_there(zoo, make_plugin):
    zoo.append(make_plugin(TYPOS, name="typos", distribution="typos-dist"))
    module = zoo[-1].value
    hint = "Fix or upgrade typos-dist, or set MSZOO_DISABLE=typos."
    told = {
        f"typos.{what} of typos-dist 1.0: names {module}:{name}, and module {module} defines no {name}. {hint}"
        for what, name in (("vllm:SiluAndMul", "Gone"), ("silu_and_mul", "gone"))
    }
    if HAS_VLLM:
        why = "would never run: vLLM has no replaceable layer 'RMSNrom'. Did you mean vllm:RMSNorm?"
        told.add(f"typos.vllm:RMSNrom of typos-dist 1.0: {why} {hint}")
    for arguments in (["list"], ["list", "typos"]):
        result = run(*arguments)
        assert result.exit_code == 1
        assert f"Not there ({len(told)}):" in result.stdout
        assert all(item in words(result.stdout) for item in told)
    missing = json.loads(run("list", "--json").stdout)["missing"]
    assert {f"{item['who']}: {item['what']}. {item['mend']}" for item in missing} == told
    findings = json.loads(run("doctor", "--json").stdout)["findings"]
    told_by_doctor = {item["who"] for item in findings if item["level"] == "problem"}
    assert told_by_doctor >= {item.partition(": ")[0] for item in told}
    result = run("explain", "silu_and_mul")
    assert result.exit_code == 1
    assert "It will fail: typos.silu_and_mul of typos-dist 1.0: names" in words(result.stdout)
    assert run("list", "acme").exit_code == 0  # of what is shown


def test_what_shells_complete(zoo):
    assert names.complete_suites("") == ["acme"]
    assert {"acme", "acme.Acme3ForCausalLM", "cpu"} <= {*names.complete_subjects("")}
    assert names.complete_names("rms_") == ["rms_norm"]
    assert names.complete_explained("rms_") == ["rms_norm"]
    assert "acme" not in names.complete_explained("acme")
