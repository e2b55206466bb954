"""Ops of suites at work: inside native models, inside vLLM's own models by vLLM's own option, and as torch ops."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import pytest

from mszoo.adapters.vllm.ops.install import install_ops, provider_name
from mszoo.conformance.reference import Reference, compare, exact, example, reference, rms
from mszoo.kernels import dispatch, runtime
from mszoo.kernels.spec import SPECS
from mszoo.registry import OpAdapter, Suite
from mszoo.registry.catalog import Catalog
from mszoo.registry.discovery import Contribution, Discovery, discover
from mszoo.registry.entry_points import Plugin
from mszoo.registry.errors import PluginError, RefusalError
from mszoo.registry.settings import Settings

PLUGIN = Path(__file__).with_name("ops_plugin.py")
PROMPTS = [[5, 17, 99, 201, 3, 44, 180], [7, 8, 250], list(range(3, 43))]
LAYERS, STEPS = 3, 8
PROVIDER = "mszoo_ops_demo"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the plugin as pip would install it."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(PLUGIN, folder / "mszoo_opsdemo.py")
    metadata = folder / "mszoo_opsdemo-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mszoo-opsdemo\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[mszoo]\nopsdemo = mszoo_opsdemo\n")
    return folder


def engines(
    site: Path, result: Path, jobs: list[dict[str, Any]], **environment: str
) -> tuple[list[Any], str]:
    """Run engines in a fresh process; return what the script wrote, and the log."""
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    process = subprocess.run(
        [sys.executable, str(PLUGIN), str(result)],
        input=json.dumps(jobs),
        env=os.environ | {"PYTHONPATH": path, "VLLM_LOGGING_LEVEL": "INFO", "NO_COLOR": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    log = process.stdout + process.stderr
    assert process.returncode == 0, log[-6000:]
    return json.loads(result.read_text()), log


@pytest.fixture(scope="module")
def results(site: Path, tmp_path_factory: pytest.TempPathFactory, checkpoint: Any) -> tuple[Any, ...]:
    """Three engines on one Qwen3: vLLM's own without and with MindSpore ops, and the native one with."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    folder = tmp_path_factory.mktemp("results")
    job = {"model": str(checkpoint("qwen3")), "prompts": PROMPTS}
    priority = {op: [PROVIDER] for op in ("rms_norm", "fused_add_rms_norm")}
    plain = job | {"options": {"enforce_eager": True, "compilation_config": {"custom_ops": ["none"]}}}
    offered = job | {"options": {"enforce_eager": True, "ir_op_priority": priority}}
    compiled = job | {"options": {}}
    first = "rms_norm,linear,paged_attention"
    with monkeypatch.context():
        own, own_log = engines(
            site, folder / "own.json", [plain, offered], MSZOO_DISABLE="native,mindformers,mindone"
        )
        native, native_log = engines(site, folder / "native.json", [compiled], OPSDEMO_FIRST=first)
    monkeypatch.undo()
    return *own, own_log, *native, native_log


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["answers"] == other["answers"]
    assert one["logprobs"] == pytest.approx(other["logprobs"], abs=2e-3)


def test_vllms_own_qwen3_computes_norms_and_activations_by_mindspore(results: tuple[Any, ...]) -> None:
    plain, offered, log, *_ = results
    assert plain["class"] == offered["class"] == "vllm.model_executor.models.qwen3:Qwen3ForCausalLM"
    assert plain["calls"] == {}
    # Of each step: the first layer's input norm and the norms of heads; every other norm adds the residual.
    assert offered["calls"].keys() == {"rms_norm", "fused_add_rms_norm", "silu_and_mul"}
    assert offered["calls"]["rms_norm"] >= STEPS * (1 + 2 * LAYERS)
    assert offered["calls"]["fused_add_rms_norm"] >= STEPS * 2 * LAYERS
    assert offered["calls"]["silu_and_mul"] >= STEPS * LAYERS
    assert len({token for answer in plain["answers"] for token in answer}) > 4
    assert_same(plain, offered)
    runs = "mszoo: rms_norm of Ops-demo (mszoo-opsdemo 1.0) runs inside torch: mszoo_opsdemo:rms_norm"
    assert log.count(runs) == 1


def test_a_native_model_runs_a_suites_op(results: tuple[Any, ...]) -> None:
    plain, _, _, native, log = results
    assert native["class"].startswith("mszoo.adapters.vllm.models.wrapper:")
    replaced = {"rms_norm", "linear", "paged_attention"}
    assert native["sets"] == {op: "demo" if op in replaced else "cpu" for op in SPECS}
    assert native["calls"].keys() == replaced
    assert native["calls"]["rms_norm"] >= STEPS
    assert native["calls"]["linear"] >= STEPS * (4 * LAYERS + 1)
    assert native["calls"]["paged_attention"] >= STEPS * LAYERS
    assert_same(plain, native)
    who = "Ops-demo of mszoo-opsdemo 1.0"
    assert log.count("mszoo: ops by suites: ") == 1
    reason = "higher priority (1 > 0)"
    assert f"rms_norm by {who} (mszoo_opsdemo:rms_norm, kernel set demo): {reason}" in log
    compiled = "mszoo: decoder layers run op by op: "
    assert (
        f"{compiled}linear is run by {who}, paged_attention is run by {who}, rms_norm is run by {who}" in log
    )


@pytest.mark.long
def test_a_suites_own_kernel_set_is_chosen_by_its_name(
    site: Path, tmp_path: Path, results: tuple[Any, ...], checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ops of the set run, though none goes first by priority."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    job = {"model": str(checkpoint("qwen3")), "prompts": PROMPTS, "options": {}}
    (chosen,), log = engines(site, tmp_path / "chosen.json", [job], MSZOO_KERNELS="demo")
    own = {"rms_norm", "fused_add_rms_norm", "silu_and_mul", "linear", "embedding", "paged_attention"}
    assert chosen["sets"] == {op: "demo" if op in own else "cpu" for op in SPECS}
    assert chosen["calls"]["linear"] >= STEPS * (4 * LAYERS + 1)
    assert_same(results[0], chosen)
    assert "(mszoo_opsdemo:linear, kernel set demo): MSZOO_KERNELS=demo" in log


def catalog_of(suite: str, ops: list[OpAdapter], device: str = "cpu") -> Catalog:
    plugin = Plugin(suite, f"{suite}-dist", "1.0", suite)
    contribution = Contribution(plugin, Suite(suite), ops=tuple(ops))
    manager = discover(Settings(), []).manager
    return Catalog(Discovery((contribution,), (), (plugin,), manager), Settings(), device)


@pytest.fixture(scope="module")
def torch_namespace() -> Any:
    """Every op of the ``mindspore`` set as a torch op."""
    adapters = [
        OpAdapter(op, f"mszoo.kernels.mindspore_set:{op}", "mindspore", dtypes=["float32"]) for op in SPECS
    ]
    adapters.append(OpAdapter("rms_norm", "mszoo.kernels.cpu_set:rms_norm", "cpu", dtypes=["bfloat16"]))
    adapters.append(OpAdapter("RmsNorm", "nowhere:nothing", "mindspore"))
    install_ops(catalog_of("test-suite", adapters))
    runtime.prepare("cpu")
    return torch.ops.mszoo_test_suite


@pytest.mark.parametrize("op", SPECS)
def test_a_torch_op_means_what_its_spec_says(torch_namespace: Any, op: str) -> None:
    given = example(op, 7, torch.float32)
    before = {name: value.clone() for name, value in given.items() if isinstance(value, torch.Tensor)}
    torch_op = getattr(torch_namespace, op)
    compare(op, "float32", torch_op(**given), reference(op, exact(given)))
    assert all(torch.equal(given[name], value) for name, value in before.items()), "an argument has changed"
    # What torch.compile relies on: the schema, and the shapes and strides that tracing sees.
    torch.library.opcheck(
        torch_op.default, tuple(given.values()), test_utils=("test_schema", "test_faketensor")
    )


def test_a_torch_op_takes_memory_that_is_not_contiguous(torch_namespace: Any) -> None:
    x, weight = torch.randn(6, 16)[::2, 4:12], torch.randn(8)
    torch.testing.assert_close(torch_namespace.rms_norm(x, weight, 1e-6), rms(x, weight, 1e-6))


def test_torch_compile_traces_it(torch_namespace: Any) -> None:
    compiled = torch.compile(
        lambda x: torch_namespace.silu_and_mul(x) * 2, fullgraph=True, backend="aot_eager"
    )
    for tokens in (3, 5):
        x = torch.randn(tokens, 8)
        torch.testing.assert_close(compiled(x), 2 * Reference.silu_and_mul(x))


def test_an_op_in_a_dtype_that_nobody_gives(torch_namespace: Any) -> None:
    x, weight = torch.randn(3, 8), torch.ones(8)
    assert torch_namespace.rms_norm(x.bfloat16(), weight.bfloat16(), 1e-6).dtype is torch.bfloat16
    with pytest.raises(
        RefusalError,
        match=r"torch\.ops\.mszoo_test_suite\.rms_norm: doesn't compute in float16\. It computes in ",
    ):
        torch_namespace.rms_norm(x.half(), weight.half(), 1e-6)


def test_vllms_option_decides_and_what_the_spec_does_not_cover_goes_on(torch_namespace: Any) -> None:
    from vllm.ir.op import IrOp

    op = IrOp.registry["rms_norm"]
    x, weight = torch.randn(3, 4, 8), torch.randn(8)
    cases = {
        "mszoo_test_suite": [(x, weight, 1e-6), (x.bfloat16(), weight.bfloat16(), 1e-6)],
        "native": [
            (x, None, 1e-6),
            (x, weight, 1e-6, 4),
            (x.half(), weight.half(), 1e-6),
            (x.bfloat16(), weight, 1e-6),
        ],
    }
    before = op.get_priority()  # engines of other tests in this process have set theirs
    with op.set_priority(["mszoo_test_suite", "native"]):
        for provider, calls in cases.items():
            for args in calls:
                assert op.dispatch(*args).provider == provider
                torch.testing.assert_close(op(*args), op.impls["native"].impl_fn(*args), rtol=2e-2, atol=1e-2)
    assert op.get_priority() == before


def test_an_implementation_that_does_not_load_is_named(torch_namespace: Any) -> None:
    install_ops(catalog_of("broken", [OpAdapter("silu_and_mul", "no_such_module:f", "x", priority=9)]))
    with pytest.raises(
        PluginError,
        match=r"silu_and_mul of broken \(broken-dist 1\.0\): no_such_module:f can't be loaded "
        r"\(ModuleNotFoundError: No module named 'no_such_module'.*"
        r"Mend the plugin, or leave mszoo_broken out",
    ):
        torch.ops.mszoo_broken.silu_and_mul(torch.randn(2, 4))


def test_what_is_not_offered_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mszoo.adapters.vllm.ops.install import log

    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level(logging.INFO, logger=log.name)
    adapters = [OpAdapter("rms_norm", "m:f", "x")]
    install_ops(catalog_of("elsewhere", adapters, device="npu"))
    assert caplog.messages == ["mszoo: ops are offered to vLLM and torch on cpu only, not on npu"]
    caplog.clear()
    install_ops(catalog_of("empty", []))
    assert caplog.messages == []
    one, other = catalog_of("same-name", adapters), catalog_of("same_name", adapters)
    both = Discovery(
        (*one.discovery.contributions, *other.discovery.contributions), (), (), one.discovery.manager
    )
    install_ops(Catalog(both, Settings()))
    assert caplog.messages[-1] == (
        "mszoo: ops of suite 'same_name' are not offered to vLLM and torch: suite 'same-name' has their "
        "provider name mszoo_same_name. Rename one suite."
    )
    assert provider_name("My-Suite") == "mszoo_my_suite"


@pytest.mark.parametrize(
    ("replaced", "methods"),
    [
        ((), ["CpuLinearMethod", "CpuTableMethod", "UnquantizedEmbeddingMethod"]),
        (("linear",), ["MindSporeLinearMethod", "CpuTableMethod", "MindSporeHeadMethod"]),
        (("embedding",), ["CpuLinearMethod", "MindSporeTableMethod", "UnquantizedEmbeddingMethod"]),
        (("linear", "embedding"), ["MindSporeLinearMethod", "MindSporeTableMethod", "MindSporeHeadMethod"]),
    ],
)
def test_a_suite_multiplies_or_looks_up(replaced: tuple[str, ...], methods: list[str]) -> None:
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.linear import RowParallelLinear
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    from mszoo.layers.methods import quant_config

    item = dispatch.choose("mindspore", "cpu", "float32").ops
    offers = {op: [replace(item[op], builtin=False)] for op in replaced}
    with (
        set_current_vllm_config(VllmConfig()),
        dispatch.building_with(dispatch.choose("auto", "cpu", "float32", offers)),
    ):
        config: Any = quant_config()
        linear, table, head = (
            config.get_quant_method(kind.__new__(kind), "")
            for kind in (RowParallelLinear, VocabParallelEmbedding, ParallelLMHead)
        )
    assert [type(method).__name__ for method in (linear, table, head)] == methods
    layer = torch.nn.Module()
    layer.weight = torch.nn.Parameter(torch.randn(11, 8), requires_grad=False)
    ids, x, weight = torch.tensor([3, 0, 10]), torch.randn(4, 8), layer.weight.clone()
    torch.testing.assert_close(table.embedding(layer, ids), weight[ids])
    for method in (head, linear):  # vLLM's own linear method frees the weight
        method.process_weights_after_loading(layer)
        torch.testing.assert_close(method.apply(layer, x), x @ weight.T)
