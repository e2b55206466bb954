"""The doctor on variables: vLLM's plugins, how its processes start, and mszoo's settings."""

from __future__ import annotations

import re
import shlex

import pytest

from mszoo.registry.cli.doctor.settings import check_settings
from mszoo.registry.cli.doctor.vllm_plugins import check_fork, check_vllm_plugins
from mszoo.registry.installer import reinstall
from mszoo.registry.settings import VARIABLES

from .doctor_facts import PLATFORM, ROOT, facts, texts


@pytest.mark.parametrize(
    ("changes", "value", "expected"),
    [
        ({}, "mszoo", []),
        (PLATFORM, "ascend,mszoo,stats", []),
        (
            {},
            "",
            [
                "VLLM_PLUGINS='': leaves out mszoo, so vLLM doesn't load it. Name all: export VLLM_PLUGINS=mszoo"
            ],
        ),
        (
            PLATFORM,
            "mszoo",
            [
                "VLLM_PLUGINS='mszoo': leaves out ascend, so vLLM doesn't load it; without ascend vLLM takes "
                "another platform. Name all: export VLLM_PLUGINS=mszoo,ascend"
            ],
        ),
        (
            PLATFORM,
            "stats",
            [
                "VLLM_PLUGINS='stats': leaves out ascend and mszoo, so vLLM doesn't load it; without ascend vLLM "
                "takes another platform. Name all: export VLLM_PLUGINS=stats,ascend,mszoo"
            ],
        ),
        (
            PLATFORM,
            "ascend, mszoo",
            [
                "VLLM_PLUGINS='ascend, mszoo': vLLM doesn't strip blanks, so ' mszoo' names no plugin. "
                "Remove the blanks: export VLLM_PLUGINS=ascend,mszoo"
            ],
        ),
        (
            {},
            "mszoo,lora_hub_resolver",
            [
                "VLLM_PLUGINS='mszoo,lora_hub_resolver': names 'lora_hub_resolver', which no installed package "
                "declares. Did you mean lora_hf_hub_resolver? Correct it: export "
                "VLLM_PLUGINS=mszoo,lora_hf_hub_resolver"
            ],
        ),
        (
            {},
            "mszoo,zzz",
            [
                "VLLM_PLUGINS='mszoo,zzz': names 'zzz', which no installed package declares. "
                "Correct it: export VLLM_PLUGINS=mszoo"
            ],
        ),
    ],
)
def test_vllm_plugins(changes, value, expected):
    findings = list(check_vllm_plugins(facts(environ={"VLLM_PLUGINS": value}, **changes)))
    assert [str(item) for item in findings] == expected
    for finding in findings:
        corrected = finding.hint.rpartition("VLLM_PLUGINS=")[2]
        assert list(check_vllm_plugins(facts(environ={"VLLM_PLUGINS": corrected}, **changes))) == []


def test_our_entry_point_and_several_platforms():
    (finding,) = check_vllm_plugins(facts(general_plugins=()))
    assert str(finding) == (
        "mszoo: has no entry point in vllm.general_plugins, so vLLM never asks it. "
        f"Install it anew: {shlex.join(reinstall())}"
    )
    (finding,) = check_vllm_plugins(facts(platform_plugins=("ascend", "other")))
    assert str(finding) == (
        "vLLM: has several platforms to choose from: ascend, other. If more than one suits this machine, vLLM "
        "refuses to start; name one: export VLLM_PLUGINS=ascend,mszoo"
    )


START = "VLLM_WORKER_MULTIPROC_METHOD"


@pytest.mark.parametrize(
    ("changes", "method", "level", "text"),
    [
        (
            {},
            "fork",
            "info",
            f"{START}=fork: is overruled by vLLM's platform for CPU, which spawns. "
            f"Nothing is needed; clearer is: unset {START}",
        ),
        (
            {},
            "forkserver",
            "problem",
            f"{START}=forkserver: is not a start method of vLLM's, which refuses to start. "
            f"Use spawn: export {START}=spawn",
        ),
        (
            PLATFORM,
            "fork",
            "warning",
            f"{START}=fork: lets the platform ascend fork its workers; a fork hangs once MindSpore has run in the "
            "parent, and mszoo overrules it only where MindSpore is imported before. "
            f"Let them spawn: export {START}=spawn",
        ),
        (
            PLATFORM,
            None,
            "info",
            f"{START}: is not set, and the platform ascend may fork its workers; mszoo sets it where MindSpore is "
            f"in use before. To be safe with other code: export {START}=spawn",
        ),
    ],
)
def test_fork(changes, method, level, text):
    environ = {} if method is None else {START: method}
    assert texts(check_fork(facts(environ=environ, **changes))) == [(level, text)]
    assert texts(check_fork(facts(environ={START: "spawn"}, **changes))) == []


@pytest.mark.parametrize(
    ("device", "environ", "level", "text"),
    [
        (
            "cpu",
            {"MSZOO_KERNELS": "cuda"},
            "problem",
            "MSZOO_KERNELS: 'cuda' is not a kernel set. Use one of auto, mindspore, cpu, ascend. "
            "Or: unset MSZOO_KERNELS",
        ),
        (
            "npu",
            {"MSZOO_KERNELS": "cpu"},
            "problem",
            "MSZOO_KERNELS=cpu: names kernels for CPU, and this is npu: every model is refused. "
            "Let mszoo choose: unset MSZOO_KERNELS",
        ),
        (
            "cpu",
            {"MSZOO_KERNELS": "ascend"},
            "problem",
            "MSZOO_KERNELS=ascend: names kernels for NPU, and this is cpu: every model is refused. "
            "Let mszoo choose: unset MSZOO_KERNELS",
        ),
        (
            "cpu",
            {"MSZOO_DISABLE": "1"},
            "warning",
            "MSZOO_DISABLE=1: switches mszoo off: vLLM serves its own models. "
            "To serve MindSpore models: unset MSZOO_DISABLE",
        ),
        (
            "cpu",
            {"MSZOO_PERFER": "mindone"},
            "warning",
            "MSZOO_PERFER: is not a variable of mszoo, and does nothing. Did you mean MSZOO_PREFER? "
            "unset MSZOO_PERFER",
        ),
        (
            "cpu",
            {"MSZOO_XYZ": ""},
            "warning",
            "MSZOO_XYZ: is not a variable of mszoo, and does nothing. mszoo reads MSZOO_DISABLE, MSZOO_KERNELS, "
            "MSZOO_LOCK, MSZOO_PLUGINS, MSZOO_PREFER. unset MSZOO_XYZ",
        ),
    ],
)
def test_settings(device, environ, level, text):
    assert texts(check_settings(facts(device, environ=environ))) == [(level, text)]


def test_all_variables_are_known():
    source = (ROOT / "registry" / "settings.py").read_text()
    assert set(re.findall(r'"(MSZOO_[A-Z]+)"', source)) == set(VARIABLES)


def test_a_suites_kernel_set_is_known():
    found = facts("cpu", environ={"MSZOO_KERNELS": "turbo"})
    assert texts(check_settings(found, ("turbo",))) == []
    assert texts(check_settings(found)) == [
        (
            "problem",
            "MSZOO_KERNELS: 'turbo' is not a kernel set. Use one of auto, mindspore, cpu, ascend. "
            "Or: unset MSZOO_KERNELS",
        )
    ]
