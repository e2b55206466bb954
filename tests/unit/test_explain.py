"""What ``mszoo explain`` says beyond who won: refused features, ops, layers, processes."""

from __future__ import annotations

import json
import tempfile

import pytest
from typer.testing import CliRunner

from mszoo.adapters.vllm.cli.explain import model as explain_model
from mszoo.adapters.vllm.cli.explain.processes import (
    Process,
    Processes,
    cause,
    collect,
    print_processes,
    processes_json,
    start,
    tensor_parallel,
)
from mszoo.adapters.vllm.cli.explain.verdict import ask
from mszoo.adapters.vllm.models.features import refused
from mszoo.registry import ModelAdapter, plugins
from mszoo.registry.cli import build
from mszoo.registry.cli.report import console
from mszoo.registry.errors import MszooError

NATIVE = """
@hookimpl
def mszoo_suite():
    return Suite("native")

@hookimpl
def mszoo_model_adapters():
    return [ModelAdapter("LlamaForCausalLM", "json:Llama", dtypes=["float32"], capabilities=["lora"])]
"""
PARTS = """
@hookimpl
def mszoo_layer_adapters():
    return [
        LayerAdapter("vllm:RMSNorm", "fast.layers:Norm"),
        LayerAdapter("vllm:SiluAndMul", "fast.layers:Silu", requires=["no-such-dist"]),
        LayerAdapter("vllm:RMSNrom", "fast.layers:Typo"),
        LayerAdapter("mindone:mindone.models:Norm", "fast.layers:Cell"),
    ]

@hookimpl
def mszoo_op_adapters():
    return [
        OpAdapter("rms_norm", "fast.ops:rms_norm", "fast", priority=1),
        OpAdapter("silu_and_mul", "fast.ops:silu", "fast"),
        OpAdapter("qk_norm", "fast.ops:qk_norm", "fast", priority=1, dtypes=["bfloat16"]),
    ]
"""


@pytest.fixture
def zoo(make_plugin, monkeypatch):
    """Let only our own test plugins be installed; returns their list."""
    installed = [
        make_plugin(NATIVE, name="native", distribution="mszoo"),
        make_plugin(PARTS, name="fast", distribution="fast-dist", version="2.0"),
    ]
    monkeypatch.setattr(plugins, "readable", lambda group: (installed, []))
    for name in ("MSZOO_PREFER", "MSZOO_DISABLE", "MSZOO_KERNELS", "MSZOO_LOCK", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    return installed


def run(*arguments):
    return CliRunner().invoke(build(), ["explain", *arguments])


def words(text):
    return " ".join(text.split())


def test_what_vllm_gets_and_what_is_refused(zoo, monkeypatch):
    monkeypatch.setattr(explain_model, "_own_classes", lambda: {"LlamaForCausalLM": "vllm.x:Llama"})
    text = words(run("LlamaForCausalLM").stdout)
    assert "vLLM gets mszoo.adapters.vllm.models.wrapper:LlamaForCausalLM, which builds json:Llama " in text
    refuses = ["--dtype bfloat16", "--dtype float16", "--tensor-parallel-size", "--pipeline-parallel-size"]
    refuses += ["--quantization"]
    assert f"Refused by its record: {', '.join(refuses)} The last resort is vllm.x:Llama" in text
    (item,) = json.loads(run("LlamaForCausalLM", "--json").stdout)["architectures"]
    assert item["class"] == "mszoo.adapters.vllm.models.wrapper:LlamaForCausalLM"
    assert (item["last_resort"], item["refuses"]) == ("vllm.x:Llama", refuses)
    monkeypatch.setattr(explain_model, "_own_classes", dict)
    assert "The last resort is nobody: vLLM has no model of that name here" in words(
        run("LlamaForCausalLM").stdout
    )
    text = words(run("native.LlamaForCausalLM").stdout)
    assert "vLLM gets mszoo.adapters.vllm.models.wrapper:native_LlamaForCausalLM, which" in text
    assert "Nobody else is asked if it refuses: the name is that of one suite" in text


def test_an_encoder_refuses_to_generate():
    assert refused(ModelAdapter("A", "a:A", pooling="CLS"))[-1] == "--runner generate"


def test_an_adapter_that_declares_everything_refuses_nothing():
    capabilities = ["lora", "tensor-parallel", "pipeline-parallel", "quantization"]
    assert refused(ModelAdapter("A", "a:A", capabilities=capabilities)) == []


def test_vllms_own_classes_are_read_from_its_source(monkeypatch, tmp_path):
    source = tmp_path / "registry.py"
    source.write_text(
        'A = {"One": ("one", "First"), "Two": ("two", "Second"), "Odd": ("one", 2), 3: ("a", "b")}\n'
        'B = {"Two": ("deep.two", "Other"), **{k: v for k, v in A.items()}}\nC = print("x")\nOLD = {"Old": "0.1"}\n'
    )

    class Spec:
        origin = str(source)

    monkeypatch.setattr(explain_model, "find_module", lambda name: Spec)
    explain_model._own_classes.cache_clear()
    try:
        assert explain_model._own_classes() == {
            "One": "vllm.model_executor.models.one:First",
            "Two": "deep.two:Other",
        }
    finally:
        explain_model._own_classes.cache_clear()


REFUSING = """
@hookimpl
def mszoo_suite():
    return Suite("mindformers")

@hookimpl
def mszoo_model_adapters():
    why = "its routing needs a kernel that CPUs lack"
    return [ModelAdapter("MoeForCausalLM", "mindformers.moe:Moe", refused=why)]
"""


def test_a_refused_model_is_left_to_vllm_with_the_reason(zoo, make_plugin, monkeypatch):
    zoo.append(make_plugin(REFUSING, name="mindformers"))
    monkeypatch.setattr(explain_model, "_own_classes", lambda: {"MoeForCausalLM": "vllm.x:Moe"})
    why = "its routing needs a kernel that CPUs lack"
    for name in ("MoeForCausalLM", "mindformers.MoeForCausalLM"):
        result = run(name)
        assert result.exit_code == 1
        assert f"unavailable mindformers.moe:Moe {why}" in words(result.stdout.replace("│", " "))
        (item,) = json.loads(run(name, "--json").stdout)["architectures"]
        assert (item["winner"], item["class"]) == (None, None)
        (candidate,) = item["candidates"]
        assert (candidate["status"], candidate["reason"], candidate["refused"]) == ("unavailable", why, why)
    assert "The last resort is vllm.x:Moe" in words(run("MoeForCausalLM").stdout)


def test_ops(zoo, monkeypatch):
    report = json.loads(run("LlamaForCausalLM", "--ops", "--json").stdout)["ops"]
    assert list(report) == ["dtype", "kernel_set", "reason", "ops"]
    assert (report["dtype"], report["kernel_set"], report["reason"]) == (
        "float32",
        "cpu",
        "the fastest set on CPU",
    )
    ops = {item["op"]: item for item in report["ops"]}
    assert ops["rms_norm"] == {
        "op": "rms_norm",
        "kernel_set": "fast",
        "code": "fast.ops:rms_norm",
        "from": "fast of fast-dist 2.0",
        "reason": "higher priority (1 > 0)",
        "others": [],
    }
    assert ops["silu_and_mul"]["code"] == "mszoo.kernels.cpu_set:silu_and_mul"
    assert ops["silu_and_mul"]["others"] == [
        {
            "name": "fast.silu_and_mul",
            "code": "fast.ops:silu",
            "reason": "mszoo's own goes before it: give it a higher priority, or put its suite into MSZOO_PREFER",
        }
    ]
    assert ops["qk_norm"]["others"][0]["reason"].startswith("computes in bfloat16, not in float32: ")
    assert ops["linear"]["from"] == "vLLM"
    ops = json.loads(run("LlamaForCausalLM", "--ops", "--json", "--dtype", "bfloat16").stdout)["ops"]["ops"]
    assert {item["op"]: item["code"] for item in ops}["qk_norm"] == "fast.ops:qk_norm"
    text = run("LlamaForCausalLM", "--ops").stdout
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "Ops in float32: kernel set cpu, the fastest set on CPU" in text
    assert "not fast.silu_and_mul (fast.ops:silu)" in words(text.replace("│", " "))


def test_ops_that_no_kernel_set_can_run(zoo, monkeypatch):
    monkeypatch.setenv("MSZOO_KERNELS", "mindspore")
    result = run("LlamaForCausalLM", "--ops", "--dtype", "bfloat16")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(
        "MSZOO_KERNELS=mindspore: MindSpore's CPU backend multiplies matrices in float32"
    )


def test_layers(zoo, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    layers = {item["target"]: item for item in json.loads(run("x", "--layers", "--json").stdout)["layers"]}
    norm = layers["vllm:RMSNorm"]
    assert list(norm) == [
        "target", "suite", "replaces", "by", "code", "from", "reason", "in_effect", "others"
    ]  # fmt: skip
    assert norm["replaces"] in (
        "vllm.model_executor.layers.layernorm:RMSNorm",
        None,
    )  # None: vLLM isn't installed
    if norm["replaces"] is not None:
        assert (norm["by"], norm["code"]) == ("fast.vllm:RMSNorm", "fast.layers:Norm")
        assert (norm["suite"], norm["in_effect"]) == (None, True)
        assert layers["vllm:RMSNrom"]["reason"].endswith("Did you mean vllm:RMSNorm?")
    assert norm["from"] == "fast-dist 2.0"
    silu = layers["vllm:SiluAndMul"]
    assert (silu["by"], silu["code"]) == (None, None)
    assert silu["reason"].startswith("needs no-such-dist, which is not installed")
    assert layers["vllm:RMSNrom"]["by"] is None
    cell = layers["mindone:mindone.models:Norm"]
    assert (cell["replaces"], cell["by"]) == ("mindone.models:Norm", "fast.mindone:mindone.models:Norm")
    assert (cell["suite"], cell["in_effect"]) == ("mindone", False)
    text = words(run("x", "--layers").stdout.replace("│", " "))
    assert "fast.layers:Norm replaces vllm.model" in text or norm["replaces"] is None
    assert "its own needs no-such-dist" in text
    assert "Cells of mindone: the replacement of one class is not in effect, vLLM's own model serves" in text


FAMILIES = ("llama", "qwen3", "gemma", "olmo", "phi")
CELLS = f"""
@hookimpl
def mszoo_suite():
    return Suite("mindone")

@hookimpl
def mszoo_model_adapters():
    config = {{"model_type": "llama"}}
    return [ModelAdapter("LlamaForCausalLM", "mindone_adapter:Llama", example_config=config)]

@hookimpl
def mszoo_layer_adapters():
    norms = [f"mindone.models.{{name}}.modeling_{{name}}:{{name.title()}}Norm" for name in {FAMILIES}]
    return [LayerAdapter(f"mindone:{{name}}", "mindone_adapter:Norm") for name in norms] + [
        LayerAdapter("mindone:mindone.models.llama.modeling_llama:Router", "mindone_adapter:Router"),
        LayerAdapter("mindone:mindspore.nn:Dense", "mindone_adapter:Linear", dtypes=["float32"]),
    ]
"""


def test_the_cells_of_the_suite_that_serves(zoo, make_plugin, monkeypatch, tmp_path):
    zoo.append(make_plugin(CELLS, name="mindone", distribution="mszoo"))
    monkeypatch.setenv("COLUMNS", "250")
    text = words(run("mindone.LlamaForCausalLM", "--layers").stdout.replace("│", " "))
    assert "Cells of mindone, replaced where its model has them" in text
    # Of many classes with one replacement, those of the model's family are named.
    assert (
        "mindone_adapter:Norm mszoo 1.0 mindone.models.llama.modeling_llama:LlamaNorm and 4 other classes of "
        "cells; --json names them the only one available here"
    ) in text
    assert "mindone_adapter:Router mszoo 1.0 mindone.models.llama.modeling_llama:Router the only" in text
    # Another plugin may replace a cell too.
    assert "fast.layers:Cell fast-dist 2.0 mindone.models:Norm the only" in text
    document = json.loads(run("mindone.LlamaForCausalLM", "--layers", "--json").stdout)
    cells = {item["target"]: item for item in document["layers"] if item["suite"] == "mindone"}
    assert len(cells) == len(FAMILIES) + 3
    assert all(item["in_effect"] for item in cells.values())

    # A folder says its own family and dtype.
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "phi", "dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = words(run(str(tmp_path), "--no-build", "--layers").stdout.replace("│", " "))
    assert "Cells of mindone: replacements of 8 classes are not in effect, native serves" in text
    monkeypatch.setenv("MSZOO_PREFER", "mindone")
    text = words(run(str(tmp_path), "--no-build", "--layers").stdout.replace("│", " "))
    assert "modeling_phi:PhiNorm and 4 other classes" in text
    assert "its own mszoo 1.0 mindspore.nn:Dense computes in float32, not in bfloat16" in text


def test_no_layers(zoo, monkeypatch):
    monkeypatch.setenv("MSZOO_DISABLE", "fast")
    assert "Layers: none is replaced, no suite registers one" in run("LlamaForCausalLM", "--layers").stdout


def test_what_needs_a_folder(zoo):
    result = run("LlamaForCausalLM", "--processes")
    assert result.exit_code == 2
    assert "give a model folder" in result.stderr


LOG = """(MainProcess pid=1) INFO 10:00:00 [install.py:92] mszoo 0.1.0: 4 architectures (A), decision {0}; see
(EngineCore pid=2) INFO 10:00:01 [install.py:92] mszoo 0.1.0: 4 architectures (A), decision {1}; see
(EngineCore pid=2) INFO 10:00:01 [wrapper.py:1] mszoo: A is served by native.A
(VllmWorker-0 pid=3) INFO 10:00:02 [install.py:92] mszoo 0.1.0: 4 architectures (A), decision {0}; see
"""
ONE, TWO = "1ad0bc633703", "ffffffffffff"


def said(pid, digest=ONE, adapter="native.A", model="w:A"):
    return {"pid": pid, "digest": digest, "adapter": adapter, "class": model}


def test_processes_are_told_apart():
    found = collect(said(1, adapter=None, model=None), [said(3), said(4)], LOG.format(ONE, ONE))
    assert found == [
        Process("front end", 1, ONE),
        Process("engine core", 2, ONE),
        Process("worker 0", 3, ONE, "native.A", "w:A"),
        Process("worker 1", 4, ONE, "native.A", "w:A"),
    ]
    assert collect(said(1), [said(2)], LOG.format(ONE, ONE))[1:] == [
        Process("engine core and worker", 2, ONE, "native.A", "w:A")
    ]


def test_any_disagreement_is_seen(capsys):
    def agree(front, workers, engine=ONE):
        log = LOG.format(ONE, engine)
        return Processes(tuple(collect(front, workers, log)), 2, "tensor parallelism 2").agree

    assert agree(said(1), [said(3), said(4)])
    assert not agree(said(1, TWO), [said(3), said(4)])
    assert not agree(said(1), [said(3), said(4, TWO)])
    assert not agree(said(1), [said(3), said(4, None)])
    assert not agree(said(1), [said(3), said(4, adapter=None, model="vllm.a:A")])
    assert not agree(said(1), [said(3), said(4)], TWO)
    fallen_back = Processes(
        tuple(collect(said(1), [said(3, adapter=None)], LOG.format(ONE, ONE))), 1, "because"
    )
    assert fallen_back.agree and not fallen_back.served
    report = Processes(tuple(collect(said(1), [said(3)], LOG.format(ONE, TWO))), 1, "because")
    assert report.served
    print_processes(console(), report)
    text = capsys.readouterr().out
    assert "vLLM's processes (because): they did NOT decide the same" in text
    assert TWO in text
    document = processes_json(report)
    assert list(document) == ["agree", "workers", "reason", "processes"]
    assert document["processes"][1] == {
        "role": "engine core",
        "pid": 2,
        "digest": TWO,
        "adapter": None,
        "model": None,
    }


def test_how_many_workers(make_catalog):
    able = ModelAdapter("A", "a:A", capabilities=["tensor-parallel"])
    catalog = make_catalog({"native": [able, ModelAdapter("B", "b:B")]})
    winner, other = catalog.decide("A").winner, catalog.decide("B").winner
    assert tensor_parallel(winner, {"num_attention_heads": 4}) == (2, "tensor parallelism 2")
    assert tensor_parallel(winner, {"num_attention_heads": 3}) == (
        1,
        "3 attention heads can't be split in two",
    )
    assert tensor_parallel(other, {"num_attention_heads": 4}) == (
        1,
        "native.B doesn't declare tensor-parallel",
    )
    assert tensor_parallel(None, {}) == (1, "no MindSpore model serves")


def test_a_failed_start_keeps_its_log(tmp_path, monkeypatch):
    (tmp_path / "vllm.py").write_text("raise ImportError('no such library')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(MszooError) as raised:
        start(tmp_path, 1, "because")
    (log,) = tmp_path.glob("mszoo-explain-*.log")
    assert str(raised.value) == (
        "mszoo explain --processes: vLLM did not start, it ended with status 1: ImportError: no such library. "
        f"All that it said is in {log}."
    )
    assert log.read_text().startswith("Traceback")


def test_the_cause_of_a_failed_start():
    log = "a\n(W pid=1) ERROR mszoo.registry.errors.LockError: MSZOO_LOCK=x: this differs. Mend it.\nlast\n\n"
    assert cause(log) == "MSZOO_LOCK=x: this differs. Mend it."
    assert cause("a\nlast\n\n") == "last"
    assert cause("") == "it said nothing"


def test_a_process_that_dies_is_told_with_its_last_line(tmp_path, monkeypatch):
    dies = tmp_path / "python"
    dies.write_text("#!/bin/sh\necho first >&2; echo out of luck >&2; exit 3\n")
    dies.chmod(0o755)
    monkeypatch.setattr("mszoo.adapters.vllm.cli.explain.verdict.sys.executable", str(dies))
    with pytest.raises(MszooError) as raised:
        ask(tmp_path, None)
    assert str(raised.value) == (
        "mszoo explain: building the model ended with status 3: out of luck. "
        "--no-build shows what the adapters' records say."
    )


def test_trust_remote_code_is_handed_on_to_vllm(zoo, tmp_path, monkeypatch):
    """To the process that builds, and to those of --processes: an interpreter that shows its job."""
    shows = tmp_path / "python"
    shows.write_text('#!/bin/sh\ncat "$3"; echo; exit 3\n')
    shows.chmod(0o755)
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("mszoo.adapters.vllm.cli.explain.verdict.sys.executable", str(shows))
    for more in ((), ("--processes",)):
        assert '"trust_remote_code": true' in run(str(tmp_path), "--trust-remote-code", *more).stderr
        assert '"trust_remote_code"' not in run(str(tmp_path), *more).stderr
