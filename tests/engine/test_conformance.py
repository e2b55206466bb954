"""Our own adapters pass conformance, and conformance finds models that are wrong on purpose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mszoo.conformance import DeviceConformance, ModelConformance, SuiteConformance

MUTANTS = Path(__file__).parent / "mutants"
NAMES = (
    "wrong_rope",
    "missing_bias",
    "wrong_in_16_bits",
    "transposed_weight",
    "stale_slot",
    "wrong_claim",
    "copy_in_torch",
    "copy_through_numpy",
)


class TestDevice(DeviceConformance):
    device = "cpu"


class TestNative(SuiteConformance):
    suite = "native"


class TestLlama(ModelConformance):
    architecture = "native.LlamaForCausalLM"


class TestQwen3(ModelConformance):
    architecture = "native.Qwen3ForCausalLM"


class TestMistral(ModelConformance):
    architecture = "native.MistralForCausalLM"


class TestQwen2(ModelConformance):
    architecture = "native.Qwen2ForCausalLM"


def check(*arguments: str, path: list[Path], **environ: str) -> tuple[int, dict[str, Any], str]:
    """Run ``mszoo check --json``; return its exit status, report and standard error."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MSZOO_")}
    done = subprocess.run(
        [sys.executable, "-c", "from mszoo.registry.cli import main; main()", "check", "--json", *arguments],
        check=False,
        env=inherited | {"PYTHONPATH": os.pathsep.join(map(str, path))} | environ,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def distribution(folder: Path, name: str, entry_points: str) -> Path:
    """Write the metadata of an installed distribution."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    return folder


def outcomes(report: dict[str, Any], adapter: str, *wanted: str) -> dict[str, str]:
    """Return the reasons of one adapter's tests that had one of these outcomes, by test."""
    (found,) = [item for item in report["adapters"] if item["adapter"] == adapter]
    return {item["test"]: item["reason"] for item in found["tests"] if item["outcome"] in wanted}


@pytest.mark.long  # test_example_plugin.py serves it
def test_the_example_plugin_passes_with_its_own_reference(tmp_path: Path) -> None:
    """Its package names a module of conformance classes: transformers has no such architecture."""
    source = Path(__file__).parents[1] / "example_plugin"
    entry_points = (
        "[mszoo]\nexample = mszoo_example.adapter\n[mszoo.conformance]\nexample = mszoo_example.conformance\n"
    )
    status, report, _ = check("example", path=[distribution(tmp_path, "mszoo-example", entry_points), source])
    assert outcomes(report, "example.ExampleForCausalLM", "failed", "error") == {}
    assert status == 0, report
    model = report["adapters"][1]
    assert model["tiers"] == {"static": "passed", "numeric": "passed", "engine": "passed"}
    assert model["source"] == "mszoo-example 1.0"


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report on all wrong models."""
    lines = "\n".join(f"{name} = mszoo_mutants.adapters:{name}" for name in NAMES)
    site = distribution(tmp_path_factory.mktemp("site"), "mszoo-mutants", f"[mszoo]\n{lines}\n")
    status, report, _ = check(path=[site, MUTANTS], MSZOO_DISABLE="native,mindformers,mindone")
    assert status == 1
    assert report["problems"] == []
    return report


@pytest.mark.parametrize(
    ("name", "caught_by", "said"),
    [
        ("wrong_rope", {"test_logits[float32]", "test_embeddings"}, "First difference: layer 1 "),
        ("missing_bias", {"test_logits[float32]", "test_embeddings"}, "First difference: layer 2 "),
        ("wrong_in_16_bits", {"test_logits[bfloat16]"}, "5e-02 is allowed. First difference: layer 0 "),
        ("transposed_weight", {"test_logits[float32]", "test_embeddings"}, "First difference: layer 0 "),
        ("stale_slot", {"test_continuous_batching", "test_preemption"}, ": generated token "),
        ("wrong_claim", {"test_capabilities_are_real", "test_lora"}, "model.layers.1.mlp.down_proj.weight"),
        ("copy_in_torch", {"test_no_copies"}, "aten::clone at models.py:"),
        ("copy_through_numpy", {"test_no_copies"}, "asnumpy at models.py:"),
    ],
)
def test_conformance_bites(name: str, caught_by: set[str], said: str, mutants: dict[str, Any]) -> None:
    failed = outcomes(mutants, f"{name}.LlamaForCausalLM", "failed", "error")
    assert set(failed) == caught_by
    assert said in " ".join(failed.values())


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report on layers and ops, right ones and wrong ones."""
    lines = "\n".join(f"{name} = mszoo_mutants.adapters:{name}" for name in ("right_parts", "wrong_parts"))
    site = distribution(tmp_path_factory.mktemp("site"), "mszoo-parts", f"[mszoo]\n{lines}\n")
    status, report, _ = check(
        "--tier", "numeric", path=[site, MUTANTS], MSZOO_DISABLE="native,mindformers,mindone"
    )
    assert status == 1
    return report


@pytest.mark.parametrize(
    "adapter",
    [
        "vllm:RMSNorm",
        "vllm:SiluAndMul",
        "rms_norm",
        "paged_attention",
        "rotary_embedding",
        "fused_add_rms_norm",
    ],
)
def test_right_layers_and_ops_pass(adapter: str, parts: dict[str, Any]) -> None:
    (found,) = [item for item in parts["adapters"] if item["adapter"] == f"right_parts.{adapter}"]
    assert outcomes(parts, found["adapter"], "failed", "error", "skipped") == {}
    dtypes = {item["test"] for item in found["tests"] if item["tier"] == "numeric"}
    assert len(dtypes) in (4, 12)  # 4 numbers of tokens, in float32 or in all dtypes


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ("vllm:RMSNorm", "call 1 is off by "),
        ("vllm:SwiGluAndMul", "vLLM has no replaceable layer SwiGluAndMul; SiluAndMul?"),
        ("silu_and_mul", "silu_and_mul in float32 is off by "),
        ("gelu_and_mul", "gelu_and_mul overwrites ['x'], which callers go on using"),
        ("rms_norm", "rms_norm in float32 is off by "),
    ],
)
def test_wrong_layers_and_ops_fail(adapter: str, said: str, parts: dict[str, Any]) -> None:
    failed = outcomes(parts, f"wrong_parts.{adapter}", "failed", "error")
    assert said in " ".join(failed.values())
