"""What `mszoo bench` reports: its figures, the table, JSON and the plot."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from rich.console import Console

from mszoo.adapters.vllm.cli.bench import report as bench_report
from mszoo.adapters.vllm.cli.bench.job import MINDSPORE, VLLM, BenchError
from mszoo.adapters.vllm.cli.bench.plot import check_can_plot, plot
from mszoo.adapters.vllm.cli.bench.report import Row, bench_json, print_report, rows
from mszoo.adapters.vllm.cli.bench.runs import Plan
from mszoo.registry import ModelAdapter

from .bench_results import HERE, OURS, THEIRS, WORKLOAD, result


def test_ratio_is_the_median_of_the_pairs():
    row = Row("r", "s", False, (1.0, 9.0, 2.0), (2.0, 3.0, 1.0))
    assert row.ratio == 2.0  # the ratio of the medians is 1


@pytest.mark.parametrize(
    ("ours", "higher", "verdict"),
    [
        (2.0, True, "better"),
        (2.0, False, "worse"),
        (0.5, True, "worse"),
        (0.5, False, "better"),
        (1.004, True, "same"),
    ],
)
def test_verdict(ours, higher, verdict):
    assert Row("r", "s", higher, (ours,), (1.0,)).verdict == verdict


def test_rows_of_a_model_that_is_pooled():
    pooled = dataclasses.replace(WORKLOAD, task="embed", prompt=20)
    found = rows({MINDSPORE: [result()], VLLM: [result(VLLM)]}, pooled)
    assert [(row.name, row.unit, row.mindspore) for row in found[:5]] == [
        ("texts of 20 tokens, batch 1", "tokens/s", (20.0,)),
        ("texts of 20 tokens, batch 8", "tokens/s", (80.0,)),
        ("one text, 512 tokens", "tokens/s", (1024.0,)),
        ("time to first answer", "ms", (50.0,)),
        ("start to first answer, cold cache", "s", (20.0,)),
    ]


def test_rows():
    found = rows({MINDSPORE: [result(), result(speed=2.0)], VLLM: [result(VLLM), result(VLLM)]}, WORKLOAD)
    assert [(row.name, row.unit, row.mindspore, row.vllm) for row in found] == [
        ("decode, batch 1", "tokens/s", (10.0, 20.0), (10.0, 10.0)),
        ("decode, batch 8", "tokens/s", (40.0, 80.0), (40.0, 40.0)),
        ("prefill, 512 tokens", "tokens/s", (1024.0, 2048.0), (1024.0, 1024.0)),
        ("time to first token", "ms", (50.0, 25.0), (50.0, 50.0)),
        ("start to first token, cold cache", "s", (20.0,), (20.0,)),
        ("start to first token, warm cache", "s", (10.0,), (20.0,)),
        ("peak RSS", "MiB", (1000.0, 1000.0), (1000.0, 1000.0)),
    ]
    assert [row.verdict for row in found] == ["better"] * 4 + ["same", "better", "same"]


def test_one_run_has_no_warm_start():
    names = [row.name for row in rows({MINDSPORE: [result()], VLLM: [result(VLLM)]}, WORKLOAD)]
    assert "start to first token, cold cache" in names
    assert "start to first token, warm cache" not in names


@pytest.mark.parametrize("counts", [(0, 0), (2, 1)])
def test_too_few_runs_are_refused(counts):
    ours, theirs = counts
    with pytest.raises(BenchError) as raised:
        rows({MINDSPORE: [result()] * ours, VLLM: [result(VLLM)] * theirs}, WORKLOAD)
    assert str(raised.value) == (
        f"bench: {ours} runs of MindSpore and {theirs} of vLLM's own model are too few to compare. "
        "Run each side once or more with --runs"
    )


@pytest.mark.parametrize("runs", [1, 3])
def test_table_fits_a_terminal(runs, capsys):
    workload = dataclasses.replace(WORKLOAD, batches=(1, 256))
    results = {
        MINDSPORE: [result(speed=1 + number * 123) for number in range(runs)],
        VLLM: [result(VLLM)] * runs,
    }
    out = Console(width=80, markup=False, highlight=False)
    print_report(out, HERE, Plan(workload, runs, None, Path("/logs")), results)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    for part in (
        "/models/some, float32, mode: vLLM's default (compiled)",
        "Some CPU, 2 cores, load average 0.25 at the start",
        "vllm 0.32.0, torch 2.13.0+cpu, mindspore 2.10.0, mszoo 0.1.0",
        "native.LlamaForCausalLM (mszoo.models.llama:LlamaForCausalLM)",
        "kernel set cpu (2 ops), mindspore (1 ops), 321 forwards, decisions 0123456789ab",
        "vllm.model_executor.models.llama.LlamaForCausalLM",
        "greedy tokens of 2 of 2 prompts are the same",
    ):
        assert part in words
    assert (" to " in text.split("decode, batch 256")[1].splitlines()[1]) == (runs > 1)


def test_who_proposed(make_catalog, capsys):
    workload = dataclasses.replace(WORKLOAD, speculative_config={"method": "eagle"})
    found = {"draft": "native.EagleLlamaForCausalLM", "accepted": 0.25}
    results = {MINDSPORE: [result(**found)], VLLM: [result(VLLM)]}
    plan = Plan(workload, 1, None, Path("/logs"))
    catalog = make_catalog({"native": [ModelAdapter("LlamaForCausalLM", "m:M")]})
    report = bench_json(catalog, HERE, plan, results)
    assert report["speculative_config"] == {"method": "eagle"}
    assert found.items() <= report["answered"][MINDSPORE].items()
    print_report(Console(width=80, markup=False, highlight=False), HERE, plan, results)
    words = " ".join(capsys.readouterr().out.split())
    assert "25.0% accepted, by native.EagleLlamaForCausalLM; vLLM's own: none accepted, by no model" in words


def test_json(make_catalog):
    catalog = make_catalog({"native": [ModelAdapter("LlamaForCausalLM", "m:M")]})
    results = {MINDSPORE: [result(), result()], VLLM: [result(VLLM), result(VLLM)]}
    plan = Plan(WORKLOAD, 2, None, Path("/logs"))
    report = json.loads(json.dumps(bench_json(catalog, HERE, plan, results)))
    assert list(report)[:4] == ["mszoo", "device", "digest", "disabled"]
    assert report["answered"][MINDSPORE] == {
        "adapter": OURS.adapter,
        "model": OURS.model,
        "kernels": OURS.kernels,
        "digest": OURS.digest,
        "forwards": 321,
        "classes": list(OURS.classes),
        "draft": None,
        "accepted": None,
    }
    assert report["answered"][VLLM] == {"classes": list(THEIRS.classes), "draft": None, "accepted": None}
    assert report["rows"][0] == {
        "name": "decode, batch 1",
        "unit": "tokens/s",
        "better": "higher",
        "ratio": 1.0,
        "verdict": "same",
        MINDSPORE: {"median": 10.0, "min": 10.0, "max": 10.0, "runs": [10.0, 10.0]},
        VLLM: {"median": 10.0, "min": 10.0, "max": 10.0, "runs": [10.0, 10.0]},
    }
    assert report["outputs"]["near_ties"] == []
    for key in (*report, *report["rows"][0], *report["outputs"], *report["machine"]):
        assert f"``{key}``" in (bench_json.__doc__ or "") or key in ("repeats", "prompt", "new")


def test_machine():
    here = bench_report.machine()
    assert here["cpu"]
    assert here["cores"] >= 1
    assert here["load"] >= 0


def test_plot(tmp_path):
    found = [
        Row("decode, batch 1", "tokens/s", True, (12.0, 13.0, 11.0), (10.0, 10.0, 10.0)),
        Row("start to first token", "s", False, (5.0, 4.0, 5.0), (20.0, 20.0, 20.0)),
    ]
    target = tmp_path / "bench.svg"
    check_can_plot(target)
    plot(found, "a model, float32", target)
    text = target.read_text()
    for part in ("decode, batch 1", "start to first token", "a model, float32", " 1.20", " 4.00"):
        assert f"<!-- {part.strip() if part[0] != ' ' else part} -->" in text
