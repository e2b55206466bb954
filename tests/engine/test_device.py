"""How vLLM's processes may start once MindSpore is in use."""

from __future__ import annotations

import os
import sys
import types

import pytest

from mszoo.adapters.vllm.device import device_name, force_spawn
from mszoo.registry.devices import this_device

VARIABLE = "VLLM_WORKER_MULTIPROC_METHOD"


@pytest.mark.parametrize(("imported", "expected"), [(True, "spawn"), (False, "fork")])
def test_fork_is_overruled_only_where_it_would_hang(imported: bool, expected: str, monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, "fork")
    if imported:
        monkeypatch.setitem(sys.modules, "mindspore", types.ModuleType("mindspore"))
    else:
        monkeypatch.delitem(sys.modules, "mindspore", raising=False)
    force_spawn()
    assert os.environ[VARIABLE] == expected


def test_the_bridge_and_the_command_say_the_same_device() -> None:
    assert device_name() == this_device() == "cpu"
