"""Checkpoints, options and requests that vLLM serves with its own model.

A MindSpore model gives the same answers, or vLLM's own model does, and the log says why. All of them run in turn in
one process with mszoo and in one without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

import pytest

from mszoo.layers.weights import CheckpointError

from .answers import run_all
from .conftest import RAW_LOGITS, assert_mindspore, running_engine, worst_logit
from .draft_checkpoints import make_draft, make_eagle3
from .odd_checkpoints import (
    make_gptq,
    make_mistral_format,
    make_other_weights,
    make_whole_lora,
)

PROMPTS = [[5, 17, 99, 201, 3, 44, 180], [7, 8, 250], list(range(3, 43))]
LORA = {"enable_lora": True, "max_lora_rank": 8, "enforce_eager": True}
#: The adapters that must answer, by the end of a job's name, and the family of its checkpoint.
ADAPTERS = {
    "llama": ("native.LlamaForCausalLM", "llama"),
    "qwen3": ("native.Qwen3ForCausalLM", "qwen3"),
    "mindformers": ("mindformers.Qwen3ForCausalLM", "qwen3"),
    "mindone": ("mindone.Qwen3ForCausalLM", "qwen3"),
}
#: Processes of each engine's own would take most of the time.
IN_ONE_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
#: test_speculation.py has what is drafted for the native Llama.
SERVED = [
    f"{job}-{name}"
    for job in ("reload", "eagle3", "draft")
    for name in ADAPTERS
    if (job, name) not in (("eagle3", "llama"), ("draft", "llama"))
]
#: Where another adapter has the same layers, or another job the same path.
LONG = {"reload-qwen3", "reload-mindone", "eagle3-mindformers", "draft-qwen3", "draft-mindone"}
_PROPOSED = "vllm:spec_decode_num_draft_tokens"
_ACCEPTED = "vllm:spec_decode_num_accepted_tokens"


@pytest.fixture(scope="module")
def jobs(
    checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """Everything that is asked, with mszoo and without."""
    folder = tmp_path_factory.mktemp("flags")
    made: dict[str, dict[str, Any]] = {}
    for family in ("llama", "qwen3"):
        source = checkpoint(family)
        lora = str(make_whole_lora(source, folder / f"{family}-lora"))
        other = make_other_weights(source, folder / f"{family}-other")
        heads: dict[str, Path] = {}
        if family == "qwen3":
            heads["eagle3"] = make_eagle3(source, folder / "eagle3")
            heads["draft"] = make_draft(source, folder / "draft", 2)
        for name in [name for name, (_, of) in ADAPTERS.items() if of == family]:
            made[f"reload-{name}"] = {
                "model": str(source),
                "options": LORA,
                "lora": [lora] * 3,
                "reload": [str(source), str(other)],
            }
            for job, head in heads.items():
                method = {"draft": "draft_model"}.get(job, job)
                speculative = {"method": method, "model": str(head), "num_speculative_tokens": 3}
                options = {
                    "speculative_config": speculative,
                    "disable_log_stats": False,
                    "enforce_eager": True,
                }
                made[f"{job}-{name}"] = {"model": str(source), "options": options}
        made[f"plain-{family}"] = {"model": str(source), "options": {"enforce_eager": True}}
    mistral = checkpoint("mistral")
    own_format = str(make_mistral_format(mistral, folder / "mistral"))
    formats = {"load_format": "mistral", "config_format": "mistral", "enforce_eager": True}
    made["mistral"] = {"model": own_format, "options": formats}
    made["mistral-auto"] = {"model": own_format, "options": {"enforce_eager": True}}
    rope = {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}  # without rope_theta
    options = {"enforce_eager": True, "hf_overrides": rope}
    made["rope"] = {"model": str(checkpoint("llama", rope_theta=50000.0)), "options": options}
    return {name: {"prompts": PROMPTS} | job for name, job in made.items()}


@pytest.fixture(scope="module")
def own(
    jobs: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What vLLM's own models answer."""
    result = tmp_path_factory.mktemp("own") / "own.json"
    # The suites' jobs differ from the native one by the name alone.
    asked = {name: job for name, job in jobs.items() if not name.endswith(("mindformers", "mindone"))}
    return run_all(asked, result, MSZOO_DISABLE="1", **IN_ONE_PROCESS)


@pytest.fixture(scope="module")
def ours(
    jobs: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[str, dict[str, Any]]:
    """What is answered with mszoo."""
    pinned = {}
    left_out = set() if request.config.getoption("--all") else LONG
    for name, job in jobs.items():
        if name in left_out:
            continue
        adapter = ADAPTERS.get(name.rpartition("-")[2], ("", ""))[0]
        override = {"hf_overrides": {"architectures": [adapter]}} if adapter.startswith("mind") else {}
        pinned[name] = job | {"options": job["options"] | override}
    return run_all(pinned, tmp_path_factory.mktemp("ours") / "ours.json", **IN_ONE_PROCESS)


def params(names: Iterable[str]) -> list[Any]:
    """Return the jobs as parameters, those of LONG marked."""
    return [pytest.param(name, marks=pytest.mark.long if name in LONG else ()) for name in names]


@pytest.mark.parametrize("name", params(SERVED))
def test_answers(name: str, own: dict[str, dict[str, Any]], ours: dict[str, dict[str, Any]]) -> None:
    """The MindSpore model answers, and the same as vLLM's own model."""
    job, _, who = name.rpartition("-")
    adapter, family = ADAPTERS[who]
    (worker,) = ours[name]["workers"]
    assert (worker["adapter"], worker["forwards"] > 0) == (adapter, True)
    expected = own[f"{job}-{family}"]
    assert expected["workers"][0]["adapter"] is None
    assert ours[name]["answers"] == expected["answers"]
    assert ours[name]["reloaded"] == expected["reloaded"]
    assert ours[name]["logprobs"] == pytest.approx(expected["logprobs"], abs=2e-3)


@pytest.mark.parametrize("name", params(name for name in SERVED if name.startswith(("eagle3", "draft"))))
def test_speculation(name: str, own: dict[str, dict[str, Any]], ours: dict[str, dict[str, Any]]) -> None:
    """As many tokens are proposed and accepted as of vLLM's own target; they are those without speculation."""
    job, _, who = name.rpartition("-")
    family = ADAPTERS[who][1]
    counted, expected = ours[name]["metrics"], own[f"{job}-{family}"]["metrics"]
    assert counted[_PROPOSED] > 0
    assert (counted[_PROPOSED], counted[_ACCEPTED]) == (expected[_PROPOSED], expected[_ACCEPTED])
    assert ours[name]["answers"] == ours[f"plain-{family}"]["answers"]


@pytest.mark.parametrize("name", ["mistral", "mistral-auto"])
def test_mistral_format(name: str, own: dict[str, dict[str, Any]], ours: dict[str, dict[str, Any]]) -> None:
    """vLLM's own model takes weights in Mistral's format, and the log says why."""
    (worker,) = ours[name]["workers"]
    assert "vllm.model_executor.models.mistral.MistralForCausalLM" in worker["classes"]
    assert ours[name]["answers"] == own[name]["answers"]
    log = ours[name]["log"]
    assert "falls back to vLLM's own model" in log
    assert "native.MistralForCausalLM: doesn't support weights under Mistral's own names" in log


@pytest.mark.parametrize("name", params(f"reload-{name}" for name in ADAPTERS))
def test_reloaded_weights_are_used(name: str, ours: dict[str, dict[str, Any]]) -> None:
    """The same weights give the same answers under the LoRA adapter, others give others."""
    same, other = ours[name]["reloaded"]
    assert same == ours[name]["answers"]
    assert other != same


@pytest.fixture(scope="module")
def gptq(
    checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path]]:
    """GPTQ checkpoints by family, and the same weights in a plain one."""
    folder = tmp_path_factory.mktemp("gptq")
    made = {}
    for family in ("llama", "qwen3"):
        packed, plain = folder / family, folder / f"{family}-plain"
        made[family] = (make_gptq(checkpoint(family), packed, plain), plain)
    return made


@pytest.mark.skipif(
    not torch.cpu._is_avx512_supported(), reason="vLLM's own product of 4-bit weights on CPU needs AVX-512"
)
@pytest.mark.parametrize("name", ADAPTERS)
def test_gptq(name: str, gptq: dict[str, tuple[Path, Path]]) -> None:
    """4-bit weights with AutoGPTQ's g_idx: logits are those of the weights that it stands for, in bfloat16."""
    adapter, family = ADAPTERS[name]
    packed, plain = gptq[family]
    options = RAW_LOGITS | {"dtype": "bfloat16", "hf_overrides": {"architectures": [adapter]}}
    with running_engine(packed, **options) as llm:
        assert worst_logit(llm, plain) < 0.2
        assert assert_mindspore(llm, adapter, "cpu") > 0


def test_gptq_in_the_order_of_activations(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Inputs in another order than the kernels take them are refused: vLLM alone answers wrongly from them."""
    packed = make_gptq(checkpoint("llama"), tmp_path / "packed", tmp_path / "plain", shuffled=True)
    options = {"dtype": "bfloat16"}
    with (
        pytest.raises(
            CheckpointError, match="orders the inputs by activation, which vLLM's kernels pass over"
        ),
        running_engine(packed, **options),
    ):
        pass


def test_a_rope_without_theta(own: dict[str, dict[str, Any]], ours: dict[str, dict[str, Any]]) -> None:
    """An override that takes rope_theta away: vLLM's own model has Hugging Face's default, and the log says so."""
    (worker,) = ours["rope"]["workers"]
    assert "vllm.model_executor.models.llama.LlamaForCausalLM" in worker["classes"]
    assert ours["rope"]["answers"] == own["rope"]["answers"]
    line = "native.LlamaForCausalLM: config.json says rope_type='linear' and gives no rope_theta. "
    assert line in ours["rope"]["log"]
