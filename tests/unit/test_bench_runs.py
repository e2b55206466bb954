"""The runs of `mszoo bench`: their order, environment and processes, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mszoo.adapters.vllm.cli.bench import runs as bench_runs
from mszoo.adapters.vllm.cli.bench.job import MINDSPORE, VLLM, BenchError, Workload
from mszoo.adapters.vllm.cli.bench.runs import Plan, environment, measure, order
from mszoo.adapters.vllm.cli.process import running_members

from .bench_results import OURS, THEIRS, WORKLOAD, outputs, result


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
    (stubs / "vllm" / "__init__.py").write_text(SLOW_TO_START)
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(stubs)}
    workload, log = Workload("m", batches=(1,), new=2, repeats=1), tmp_path / "run.log"
    with pytest.raises(BenchError) as raised:
        bench_runs.run_once(workload, VLLM, environ, tmp_path, log)
    assert str(raised.value) == f"bench: 2 tokens are too few to time. Decode more with --new. Log: {log}"


# What the bridge's seam imports of vLLM at once.
AT_ONCE = {
    "vllm/logger.py": "init_logger = None",
    "vllm/platforms.py": "current_platform = None",
    "vllm/version.py": "__version__ = '0'",
    "vllm/model_executor/models/interfaces.py": "class SupportsMultiModal: ...\n"
    "SupportsLoRA = SupportsPP = supports_pp = SupportsMRoPE = object",
    "vllm/model_executor/models/registry.py": "ModelRegistry = None",
}


def stub(folder, source):
    """Make a vllm whose LLM() runs `source`, and a torch; return the folder to import them from."""
    body = "\n".join(f"        {line}" for line in source.splitlines())
    text = f"class SamplingParams: pass\nclass LLM:\n    def __init__(self, **options):\n{body}\n"
    modules = AT_ONCE | {"torch.py": "", "vllm/__init__.py": text}
    for name, source in modules.items():
        path = folder / "stubs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return folder / "stubs"


def test_interrupt_stops_the_run(tmp_path):
    running = tmp_path / "running"
    stubs = stub(tmp_path, f"import time\nopen({str(running)!r}, 'w').close()\ntime.sleep(600)")
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(stubs)}
    source = f"""
import signal
from pathlib import Path
from mszoo.adapters.vllm.cli.bench import runs
from mszoo.adapters.vllm.cli.bench.job import Workload
folder = Path({str(tmp_path)!r})
signal.signal(signal.SIGINT, signal.default_int_handler)
runs.run_once(Workload("m"), "vllm", {environ!r}, folder, folder / "run.log")
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
