"""Locks and explanations against real vLLM: what all its processes decide, and what they refuse."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mszoo.adapters.vllm.cli.explain.model import own_class
from mszoo.registry.load import load_catalog
from mszoo.registry.lock import read_lock
from mszoo.registry.lock_guard import guard, release

LOAD = "from vllm.plugins import load_general_plugins; load_general_plugins(); print('loaded')"


def python(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these variables and no other MSZOO_*."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MSZOO_")}
    return subprocess.run(
        [sys.executable, *arguments],
        check=False,
        env=inherited | environ,
        capture_output=True,
        text=True,
        timeout=300,
    )


def mszoo(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return python("-c", "from mszoo.registry.cli import main; main()", *arguments, **environ)


@pytest.fixture(scope="module")
def lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lock of what is installed here."""
    path = tmp_path_factory.mktemp("lock") / "mszoo.lock"
    result = mszoo("lock", str(path))
    assert result.returncode == 0, result.stderr
    return path


@pytest.fixture
def changed(lock: Path, tmp_path: Path) -> Path:
    """The same lock, of other code."""
    code = read_lock(lock).plugins["native"].modules["mszoo.models.llama"]
    assert code is not None
    path = tmp_path / "changed.lock"
    path.write_text(lock.read_text().replace(code, "sha256:0"))
    return path


def test_all_processes_decide_the_same(checkpoint, lock: Path) -> None:
    """Front end, engine core and two tensor-parallel workers, under a lock that fits."""
    folder = str(checkpoint("llama"))
    result = mszoo("explain", folder, "--processes", "--json", MSZOO_LOCK=str(lock))
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    found = report["processes"]
    assert (found["agree"], found["workers"], found["reason"]) == (True, 2, "tensor parallelism 2")
    roles = [item["role"] for item in found["processes"]]
    assert roles == ["front end", "engine core", "worker 0", "worker 1"]
    assert len({item["pid"] for item in found["processes"]}) == 4
    assert {item["digest"] for item in found["processes"]} == {report["digest"]}
    for worker in found["processes"][2:]:
        assert worker["adapter"] == "native.LlamaForCausalLM"
        assert worker["model"] == "mszoo.adapters.vllm.models.wrapper:LlamaForCausalLM"


CARRIED = """
import json, os
from vllm.plugins import load_general_plugins
from vllm.ray.ray_env import get_env_vars_to_copy

load_general_plugins()
print(json.dumps({name: os.environ[name] for name in get_env_vars_to_copy() if name in os.environ}))
"""
DECIDED = """
from vllm.plugins import load_general_plugins
from mszoo.adapters.vllm.install import install

load_general_plugins()
catalog = install()
print(catalog.digest(), *catalog.settings.prefer)
"""


def test_a_worker_with_what_vllm_carries_decides_the_same() -> None:
    """The variables that vLLM copies to the workers it starts through Ray are enough."""
    driver = python("-c", CARRIED, MSZOO_PREFER="native")
    assert driver.returncode == 0, driver.stderr
    carried = json.loads(driver.stdout.splitlines()[-1])
    assert carried["MSZOO_PREFER"] == "native"
    worker = python("-c", DECIDED, **carried)
    assert worker.returncode == 0, worker.stderr
    assert worker.stdout.splitlines()[-1].split() == [
        load_catalog({"MSZOO_PREFER": "native"}).digest(),
        "native",
    ]


RAY = """
import os, sys
import ray
from vllm.plugins import load_general_plugins
from vllm.ray.ray_env import get_env_vars_to_copy

load_general_plugins()
carried = {name: os.environ[name] for name in get_env_vars_to_copy() if name in os.environ}
# Set only for Ray's processes: what reaches them came through vLLM's list.
os.environ.pop("MSZOO_PREFER")
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)

@ray.remote(runtime_env={"env_vars": carried})
def decide():
    from vllm.plugins import load_general_plugins
    from mszoo.adapters.vllm.install import install
    load_general_plugins()
    catalog = install()
    return os.getpid(), catalog.digest(), catalog.settings.prefer

print(os.getpid(), *ray.get(decide.remote()))
"""


@pytest.mark.long
def test_a_ray_worker_decides_the_same() -> None:
    """vLLM 0.32 refuses Ray on CPU, so this is a bare Ray worker with the variables that vLLM would copy to it."""
    pytest.importorskip("ray")
    result = python("-c", RAY, MSZOO_PREFER="native", RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
    assert result.returncode == 0, result.stderr
    driver, worker, digest, prefer = result.stdout.splitlines()[-1].split(maxsplit=3)
    assert driver != worker
    assert digest == load_catalog({"MSZOO_PREFER": "native"}).digest()
    assert prefer == "('native',)"


def test_nothing_is_served_if_something_differs_from_the_lock(checkpoint, changed: Path) -> None:
    """vLLM ends before it reads weights, and says what differs."""
    folder = str(checkpoint("llama"))
    result = mszoo("explain", folder, "--processes", MSZOO_LOCK=str(changed))
    assert result.returncode == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith(
        "mszoo explain --processes: vLLM did not start, it ended with status 1: MSZOO_LOCK="
    )
    assert (
        "differs: plugins 'mindformers', 'mindone', 'native': the code of mszoo.models.llama is not what was locked"
        in line
    )


def test_every_process_checks_the_lock(lock: Path, changed: Path) -> None:
    assert python("-c", LOAD, MSZOO_LOCK=str(lock)).stdout.splitlines()[-1] == "loaded"
    result = python("-c", LOAD, MSZOO_LOCK=str(changed))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(
        f"mszoo.registry.errors.LockError: MSZOO_LOCK={changed}: nothing is served, this differs: plugins "
    )


def test_a_lock_allows_no_other_implementation(checkpoint, lock: Path, tmp_path: Path) -> None:
    """Where the adapters refuse the model, vLLM's own would serve it; it is not in the lock."""
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "mish"}))
    result = mszoo("explain", str(folder), "--processes", MSZOO_LOCK=str(lock))
    assert result.returncode == 1
    line = result.stderr.splitlines()[-1]
    assert f"no implementation that MSZOO_LOCK={lock} names can serve this model: " in line
    assert "hidden_act='mish'" in line


def test_vllms_own_classes_are_those_of_its_registry() -> None:
    from vllm.model_executor.models.registry import ModelRegistry

    lazy = {name: entry for name, entry in ModelRegistry.models.items() if hasattr(entry, "module_name")}
    assert len(lazy) > 200
    wrong = {
        name: own_class(name)
        for name, entry in lazy.items()
        if own_class(name) != f"{entry.module_name}:{entry.class_name}"
    }
    assert wrong == {}


def test_what_was_imported_is_compared_before_a_model_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a module that isn't what the lock says, the choice of a model is told, whoever would serve it."""
    from mszoo.adapters.vllm.models import choice

    built = object()
    monkeypatch.setattr(choice, "build", lambda *arguments: (built, []))
    catalog = SimpleNamespace(settings=SimpleNamespace(lock=Path("/the.lock")), selects_by_config=False)
    held = guard()
    try:
        assert choice.choose(None, "auto", catalog, None, "", {}).built is built
        held.expected["json.decoder"] = "sha256:0"
        refused = choice.choose(None, "auto", catalog, None, "", {})
    finally:
        release()
    assert refused.built is None
    assert str(refused.error).startswith(
        "MSZOO_LOCK=/the.lock: nothing is served, this differs: json.decoder: its code is not what was locked (/"
    )
