"""The parts of `mszoo bench` that need no engine: order, environment, comparison, figures, reports, refusals."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from mszoo.registry import ModelAdapter
from mszoo.registry.cli import bench_report, bench_runs, bench_worker, build
from mszoo.registry.cli.bench_plot import check_can_plot, plot
from mszoo.registry.cli.bench_report import Row, bench_json, compare, print_report, rows
from mszoo.registry.cli.bench_runs import Plan, environment, measure, order
from mszoo.registry.cli.bench_worker import (
    MINDSPORE,
    VLLM,
    Answerer,
    BenchError,
    Outputs,
    Result,
    Workload,
    check_answerer,
    engine_options,
    prompts,
)
from mszoo.registry.cli.process import running_members

WRAPPER = "mszoo.registry.bridge.wrapper.MindSporeModel"
OURS = Answerer(
    ("mszoo.registry.bridge.wrapper.LlamaForCausalLM", WRAPPER, "torch.nn.modules.module.Module"),
    "native.LlamaForCausalLM",
    "mszoo.models.llama:LlamaForCausalLM",
    {"rms_norm": "cpu", "linear": "cpu", "rotary": "mindspore"},
    "0123456789ab",
    321,
)
THEIRS = Answerer(("vllm.model_executor.models.llama.LlamaForCausalLM", "torch.nn.modules.module.Module"))
HERE = {"cpu": "Some CPU", "cores": 2, "load": 0.25}
WORKLOAD = Workload("/models/some", "float32", (1, 8), new=11)


def outputs(answers=((3, 4, 5), (6, 7, 8)), gap=1.0, scores=(-1.0, -2.0, -3.0)):
    """Outputs whose every token leads the next token id by `gap`."""
    nearest = [[[(token, -1.0), (token + 1, -1.0 - gap)] for token in answer] for answer in answers]
    return Outputs([list(answer) for answer in answers], nearest, list(scores))


def result(side=MINDSPORE, dtype="float32", speed=1.0, **fields):
    defaults = {
        "answerer": OURS if side == MINDSPORE else THEIRS,
        "dtype": dtype,
        "versions": {"vllm": "0.32.0", "torch": "2.13.0+cpu", "mindspore": "2.10.0", "mszoo": "0.1.0"},
        "start": 20 / speed,
        "first_token": 0.05 / speed,
        "prefill": 0.5 / speed,
        "decode": [1.0 / speed, 2.0 / speed],
        "peak_rss": 1000.0,
        "outputs": outputs(),
    }
    return Result(**(defaults | fields))


def test_sides_take_turns_and_alternate_who_goes_first():
    assert order(3) == [MINDSPORE, VLLM, VLLM, MINDSPORE, MINDSPORE, VLLM]


def test_environment_of_the_sides():
    environ = {
        "HOME": "/home",
        "VLLM_CPU_KVCACHE_SPACE": "7",
        "VLLM_CACHE_ROOT": "/used",
        "MSZOO_PREFER": "x",
    }
    ours = environment(MINDSPORE, "mindspore", Path("/cache"), environ)
    theirs = environment(VLLM, "mindspore", Path("/cache"), environ)
    assert ours.pop("MSZOO_KERNELS") == "mindspore"
    assert theirs.pop("MSZOO_DISABLE") == "1"
    caches = ("VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR")
    assert len({Path(side.pop(name)) for side in (ours, theirs) for name in caches}) == 4
    assert ours == theirs
    assert ours["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert ours["VLLM_CPU_KVCACHE_SPACE"] == "7"
    assert environment(VLLM, None, Path("/cache"), {})["VLLM_CPU_KVCACHE_SPACE"] == "1"
    kept = environment(MINDSPORE, None, Path("/cache"), {"MSZOO_KERNELS": "cpu"})
    assert kept["MSZOO_KERNELS"] == "cpu"


def test_every_prefill_fits_one_step():
    options = engine_options(Workload("m", batches=(1, 32), prompt=100, new=20, prefill=512))
    assert options["max_num_batched_tokens"] == 3200
    assert (options["max_num_seqs"], options["max_model_len"]) == (32, 513)
    options = engine_options(Workload("m", batches=(1,), prompt=1, new=2, prefill=1))
    assert options["max_model_len"] == options["max_num_batched_tokens"] == 129


def test_prompts_are_fixed_and_below_the_vocabulary():
    first = prompts(50, (3, 200), seed=1)
    assert first == prompts(50, (3, 200), seed=1)
    assert first != prompts(50, (3, 200), seed=2)
    assert [len(item["prompt_token_ids"]) for item in first] == [3, 200]
    assert {token for item in first for token in item["prompt_token_ids"]} <= set(range(50))


def test_the_right_answerers_pass():
    check_answerer(MINDSPORE, OURS)
    check_answerer(VLLM, THEIRS)


@pytest.mark.parametrize(
    ("side", "answerer", "text"),
    [
        (
            MINDSPORE,
            THEIRS,
            "vllm.model_executor.models.llama.LlamaForCausalLM served the MindSpore side, no adapter of mszoo. "
            "See why in the log's lines with 'mszoo'",
        ),
        (
            VLLM,
            OURS,
            "vLLM's side was served by native.LlamaForCausalLM. Check that nothing unsets MSZOO_DISABLE",
        ),
        (
            MINDSPORE,
            dataclasses.replace(OURS, forwards=0),
            "native.LlamaForCausalLM computed no step of the MindSpore side. Report this with the log",
        ),
    ],
)
def test_the_wrong_answerers_are_refused(side, answerer, text):
    with pytest.raises(BenchError) as raised:
        check_answerer(side, answerer)
    assert str(raised.value) == f"bench: {text}"


def test_result_survives_json():
    written = json.loads(json.dumps(dataclasses.asdict(result())))
    assert compare(Result.from_json(written), result(VLLM)).answers == (2, 2)
    assert Result.from_json(written).answerer.kernels == OURS.kernels


def rounded(dtype):
    """The float32 reference of sides that are 0.15 away from it: a gap of 1.22 is a near tie then."""
    return None if dtype == "float32" else outputs(scores=(-1.15, -2.15, -3.15))


def test_equal_outputs_agree():
    agreement = compare(result(), result(VLLM, outputs=outputs(scores=(-1.0, -2.0, -3.0004))))
    assert (agreement.answers, agreement.near_ties) == ((2, 2), ())
    assert agreement.maximum == pytest.approx(4e-4)
    assert str(agreement) == (
        "greedy tokens of 2 of 2 prompts are the same; log-probabilities differ by at most 0.0004, "
        "0.00013 on average from vLLM's own"
    )


def test_half_precision_is_held_against_float32():
    """Neither side is the other's measure: what counts is who is further from the unrounded model."""
    ours = result(dtype="bfloat16", outputs=outputs(scores=(-1.1, -2.1, -3.1)))
    theirs = result(VLLM, dtype="bfloat16", outputs=outputs(scores=(-0.9, -1.9, -2.9)))
    agreement = compare(ours, theirs, outputs())
    assert (agreement.mean, agreement.maximum) == (pytest.approx(0.1), pytest.approx(0.1))
    assert str(agreement).endswith(
        "0.1 on average from float32, where vLLM's own in bfloat16 do by 0.1 and 0.1"
    )
    with pytest.raises(ValueError, match="outputs in bfloat16 are compared by way of float32"):
        compare(ours, theirs)


@pytest.mark.parametrize(("dtype", "gap"), [("float32", 0.0015), ("bfloat16", 0.9), ("float16", 0.9)])
def test_a_near_tie_is_told(dtype, gap):
    # At the second token of the second prompt one side says 7, the other 8; what follows is free.
    ours = result(dtype=dtype, outputs=outputs(((3, 4, 5), (6, 7, 8)), gap))
    answers = ((3, 4, 5), (6, 8, 99))
    nearest = outputs(answers, gap).nearest
    nearest[1][1] = [(8, -1.0), (7, -1.0 - gap)]
    theirs = dataclasses.replace(outputs(answers, gap), nearest=nearest)
    agreement = compare(ours, result(VLLM, dtype=dtype, outputs=theirs), rounded(dtype))
    assert agreement.answers == (2, 1)
    assert [item[:2] for item in agreement.near_ties] == [(1, 1)]
    assert f"the others part at near ties (log-probability gap at most {gap:.2g})" in str(agreement)


@pytest.mark.parametrize(
    ("dtype", "theirs", "text"),
    [
        (
            "float32",
            outputs(((3, 4, 5), (6, 8, 8))),
            "greedy token 1 of prompt 1 is 7 of MindSpore's and 8 of vLLM's own, which is no near tie (gaps of the "
            "log-probabilities: 1 and none)",
        ),
        (
            "float32",
            outputs(((3, 4, 5), (6, 9, 8)), 1e-4),
            "is no near tie (gaps of the log-probabilities: none and none)",
        ),
        ("float32", outputs(scores=(-1.0, -2.0, -3.0011)), "log-probabilities of one prompt by up to 0.0011"),
        ("float32", outputs(scores=(-1.0, math.nan, -3.0)), "nan on average"),
        ("float16", outputs(((3, 4, 5), (6, 9, 8))), "which is no near tie"),
    ],
)
def test_outputs_that_differ_are_refused(dtype, theirs, text):
    with pytest.raises(BenchError) as raised:
        compare(result(dtype=dtype), result(VLLM, dtype=dtype, outputs=theirs), rounded(dtype))
    message = str(raised.value)
    assert message.startswith("bench: the two models' outputs differ: ")
    assert text in message
    assert message.endswith(
        ". Find the wrong model with --dtype float32 and `mszoo explain`: speed of a wrong model means nothing"
    )


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        (
            (-1.25, -2.25, -3.25),
            r"by up to 0.25 and 0.25 on average from float32, where vLLM's own in bfloat16 do",
        ),
        ((-1.0, -2.0, -3.6), "up to 0.6 and 0.2 on average"),  # one token far off
        ((-1.0, math.nan, -3.0), "nan on average"),
    ],
)
def test_more_than_bfloat16_explains_is_refused(scores, text):
    ours = result(dtype="bfloat16", outputs=outputs(scores=scores))
    theirs = result(VLLM, dtype="bfloat16", outputs=outputs(scores=(-1.1, -2.1, -3.1)))
    with pytest.raises(BenchError, match=text):
        compare(ours, theirs, outputs())


def test_dtypes_that_differ_are_refused():
    with pytest.raises(BenchError) as raised:
        compare(result(), result(VLLM, dtype="bfloat16"))
    assert str(raised.value) == (
        "bench: MindSpore computed in float32, vLLM's own model in bfloat16. Give one with --dtype"
    )


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
    }
    assert report["answered"][VLLM] == {"classes": list(THEIRS.classes)}
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


def test_each_pair_is_checked_at_once(tmp_path, monkeypatch):
    ran = []

    def run_once(workload, side, environ, scratch, log):
        ran.append((side, log.name))
        return result(side)

    def check(ours, theirs, reference):
        assert (ours.answerer, theirs.answerer, reference) == (OURS, THEIRS, None)
        raise BenchError("bench", "differ", "mend")

    monkeypatch.setattr(bench_runs, "run_once", run_once)
    plan = Plan(WORKLOAD, 2, None, tmp_path)
    with pytest.raises(BenchError, match="differ"):
        measure(plan, {}, lambda *_: None, check)
    assert ran == [(MINDSPORE, "01-mindspore.log"), (VLLM, "02-vllm.log")]
    results, reference = measure(plan, {}, lambda *_: None, lambda *_: None)
    assert ([len(items) for items in results.values()], reference) == ([2, 2], None)


def test_half_precision_gets_a_reference_once(tmp_path, monkeypatch):
    asked, compared = [], []

    def run_reference(plan, environ, scratch):
        asked.append(plan)
        return outputs()

    monkeypatch.setattr(bench_runs, "run_once", lambda workload, side, *_: result(side, dtype="bfloat16"))
    monkeypatch.setattr(bench_runs, "run_reference", run_reference)
    _, reference = measure(
        Plan(WORKLOAD, 2, None, tmp_path), {}, lambda *_: None, lambda *pair: compared.append(pair[2])
    )
    assert (len(asked), compared, reference) == (1, [outputs()] * 2, outputs())


def test_a_run_that_dies_shows_its_log(tmp_path):
    # Without its environment the process doesn't even find the model folder.
    workload = Workload(str(tmp_path / "nowhere"))
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(stub(tmp_path, "raise RuntimeError('no luck')"))}
    with pytest.raises(BenchError, match="bench, MindSpore: the run ended with status 1") as raised:
        bench_runs.run_once(workload, MINDSPORE, environ, tmp_path, tmp_path / "run.log")
    assert raised.value.lines[-1] == "RuntimeError: no luck"
    assert str(tmp_path / "run.log") in str(raised.value)


def test_a_refusal_inside_a_run_is_an_error_here(tmp_path):
    source = "from mszoo.registry.errors import RefusalError\nraise RefusalError('who', 'what', 'Mend it')"
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(stub(tmp_path, source))}
    with pytest.raises(BenchError, match=r"^who: what. Mend it. Log: .*run.log$"):
        bench_runs.run_once(Workload("m"), VLLM, environ, tmp_path, tmp_path / "run.log")


def test_frameworks_that_cannot_be_imported_are_told_first(tmp_path):
    stubs = stub(tmp_path, "pass")
    (stubs / "mindspore.py").write_text("raise ImportError('no such library')")
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(stubs)}
    with pytest.raises(BenchError) as raised:
        bench_runs.rehearse(Plan(WORKLOAD, 1, None, tmp_path), environ)
    assert str(raised.value) == (
        "bench: vLLM or MindSpore can't be imported. "
        f"Install mszoo[cpu]; the log is {tmp_path / 'imports.log'}"
    )
    assert raised.value.lines[-1] == "ImportError: no such library"


SLOW_TO_START = """
import time
from types import SimpleNamespace

__version__ = "0"

class SamplingParams:
    def __init__(self, max_tokens, **options):
        self.max_tokens = max_tokens

class Model:
    pass

class LLM:
    def __init__(self, **options):
        model = SimpleNamespace(get_vocab_size=lambda: 8)
        cache = SimpleNamespace(block_size=128, num_gpu_blocks=1)
        self.llm_engine = SimpleNamespace(vllm_config=SimpleNamespace(model_config=model, cache_config=cache))

    def generate(self, batch, sampling, use_tqdm):
        time.sleep(0.05 if sampling.max_tokens == 1 else 0)

    def apply_model(self, ask):
        return [ask(Model())]
"""


def test_an_answer_too_short_to_time_is_refused(tmp_path):
    """Where noise makes two tokens faster than one, there is no time of a token."""
    stubs = stub(tmp_path, "pass")
    (stubs / "vllm.py").write_text(SLOW_TO_START)
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(stubs)}
    workload, log = Workload("m", batches=(1,), new=2, repeats=1), tmp_path / "run.log"
    with pytest.raises(BenchError) as raised:
        bench_runs.run_once(workload, VLLM, environ, tmp_path, log)
    assert str(raised.value) == f"bench: 2 tokens are too few to time. Decode more with --new. Log: {log}"


def stub(folder, source):
    """Make a vllm whose LLM() runs `source`, and a torch; return the folder to import them from."""
    body = "\n".join(f"        {line}" for line in source.splitlines())
    (folder / "stubs").mkdir()
    (folder / "stubs" / "torch.py").write_text("")
    text = f"class SamplingParams: pass\nclass LLM:\n    def __init__(self, **options):\n{body}\n"
    (folder / "stubs" / "vllm.py").write_text(text)
    return folder / "stubs"


def test_a_small_kv_cache_is_refused():
    cache = SimpleNamespace(block_size=128, num_gpu_blocks=15)
    with pytest.raises(BenchError) as raised:
        bench_worker._check_cache(cache, Workload("m", batches=(1, 8), prompt=100, new=60))
    assert str(raised.value) == (
        "bench: the KV cache holds 1920 tokens, and batch 8 needs 2048. "
        "Set VLLM_CPU_KVCACHE_SPACE to more GiB, or give a smaller --batch"
    )
    bench_worker._check_cache(cache, Workload("m", batches=(1, 8), prompt=64, new=64))


def test_interrupt_stops_the_run(tmp_path):
    running = tmp_path / "running"
    stubs = stub(tmp_path, f"import time\nopen({str(running)!r}, 'w').close()\ntime.sleep(600)")
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(stubs)}
    source = f"""
import signal
from pathlib import Path
from mszoo.registry.cli import bench_runs
from mszoo.registry.cli.bench_worker import Workload
folder = Path({str(tmp_path)!r})
signal.signal(signal.SIGINT, signal.default_int_handler)
bench_runs.run_once(Workload("m"), "vllm", {environ!r}, folder, folder / "run.log")
"""
    with subprocess.Popen(
        [sys.executable, "-c", source], stderr=subprocess.PIPE, start_new_session=True
    ) as parent:
        deadline = time.monotonic() + 30
        while not running.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        children = child_groups(parent.pid)
        os.kill(parent.pid, signal.SIGINT)
        assert b"KeyboardInterrupt" in parent.communicate(timeout=30)[1]
    assert [running_members(group) for group in children] == [[]]


def child_groups(parent):
    """Return the process groups of the children of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended while we looked
        if int(fields[1]) == parent and int(fields[2]) != parent:
            found.append(int(fields[2]))
    return found


def model_folder(tmp_path, architecture):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    return str(tmp_path)


def run(*arguments):
    return CliRunner().invoke(build(), ["bench", *arguments])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--batch", "1,x"], "'1,x' is not a list such as 1,8,32"),
        (["--batch", "0"], "is not a list"),
        (["--runs", "0"], "greater than or equal to 1"),
        (["--new", "1"], "greater than or equal to 2"),
        (["--dtype", "int8"], "int8"),
        (["--kernels", "fast"], "'fast' is not a kernel set"),
    ],
)
def test_bad_usage(tmp_path, arguments, text):
    found = run(model_folder(tmp_path, "LlamaForCausalLM"), *arguments)
    assert found.exit_code == 2
    assert text in " ".join(found.stderr.replace("│", " ").split())


def test_a_missing_folder_is_bad_usage(tmp_path):
    found = run(str(tmp_path / "nowhere"))
    assert found.exit_code == 2
    assert "nowhere: doesn't exist." in found.stderr


def test_an_architecture_without_a_mindspore_model_is_refused(tmp_path):
    found = run(model_folder(tmp_path, "FarForCausalLM"))
    assert found.exit_code == 1
    assert "no MindSpore model serves FarForCausalLM. See why: mszoo explain" in found.stderr
    assert found.stdout == ""


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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bench", "--plot: bench has no suffix of an image format. Name it with one of: "),
        ("nowhere/bench.svg", "nowhere is not a folder. Create it first"),
    ],
)
def test_a_plot_that_cannot_be_written_is_refused_first(tmp_path, name, text):
    found = run(str(tmp_path), "--plot", str(tmp_path / name))
    assert found.exit_code == 2
    assert text in found.stderr
