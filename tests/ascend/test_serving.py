"""Engines of the real vllm-ascend: vLLM's own model shows that the stand-in is right, and then ours serve on it."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.engine.server import running_server
from tests.engine.sites import _sources as sources_of
from tests.engine.sites import install, on_path
from tests.engine.test_mindformers import CASES

from .conftest import LONG, PROMPTS, ROOT

#: MSZOO_DISABLE: vLLM's own model serves.
OWN = {"MSZOO_DISABLE": "1"}


@pytest.fixture(scope="module")
def op_stand_ins(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a PYTHONPATH with a suite: MindSpore Transformers' networks on stand-ins for Ascend's ops."""
    site = tmp_path_factory.mktemp("suite")
    entry_points = "[mszoo]\nstand_in = ascend_stand_in.suite\n"
    install(site, "ascend-stand-in-suite", entry_points, sources_of("ascend_stand_in"))
    return on_path(site, ROOT)


def adapter_of(answered: dict[str, Any]) -> str | None:
    return answered["workers"][0]["adapter"]


@pytest.mark.parametrize("eager", [pytest.param(True, marks=pytest.mark.long), False])
def test_vllms_own_llama_equals_hugging_face(models, serve, eager: bool) -> None:
    model = models("llama")
    answered = serve(model["folder"], OWN, enforce_eager=eager)
    assert adapter_of(answered) is None
    assert answered["answers"] == model["answers"]
    assert ("Replaying aclgraph" in answered["log"]) != eager


#: Its frequencies are computed by Hugging Face's function, on a device that it is told.
ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 2.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def test_a_native_model_serves_in_vllms_default_mode(models, serve) -> None:
    """vLLM's graphs can't hold what MindSpore computes: replays left it out, and all later tokens were wrong."""
    model = models("llama", rope_parameters=ROPE, vocab_size=20000, hidden_size=128)
    answered = serve(model["folder"])
    assert adapter_of(answered) == "native.LlamaForCausalLM"
    assert answered["workers"][0]["kernels"] == ["ascend"]
    assert answered["answers"] == model["answers"]
    log = answered["log"]
    assert "vLLM's graphs (cudagraph_mode FULL_AND_PIECEWISE) are off" in log
    assert "Replaying aclgraph" not in log
    # Said once, of a request: not while vLLM warms up or captures.
    assert len(re.findall(r"native\.LlamaForCausalLM answers", log)) == 1
    assert log.index("init engine (") < log.index("native.LlamaForCausalLM answers")
    # Weights lie where vLLM counts them: a copy that MindSpore owned was none of the model's memory.
    weights = (model["folder"] / "model.safetensors").stat().st_size
    (counted,) = map(float, re.findall(r"Loading model weights took ([\d.]+) GB", log))
    assert counted * (1 << 30) == pytest.approx(weights, rel=0.1)


def test_mindformers_own_network_serves_in_vllms_default_mode(models, serve, op_stand_ins) -> None:
    model = models("qwen3")
    asked = {"architectures": ["stand_in.Qwen3ForCausalLM"]}
    answered = serve(model["folder"], {"PYTHONPATH": op_stand_ins}, hf_overrides=asked)
    assert adapter_of(answered) == "stand_in.Qwen3ForCausalLM"
    assert answered["answers"] == model["answers"]
    called = set(answered["workers"][0]["calls"])
    assert called == {
        "RmsNorm",
        "ApplyRotaryPosEmb",
        "ReshapeAndCache",
        "FlashAttentionScore",
        "PagedAttention",
    }
    log = answered["log"]
    assert log.index("init engine (") < log.index("stand_in.Qwen3ForCausalLM answers")
    # vLLM's look at memory takes the whole network, too: one prefill of each layer more than the prompts took.
    layers, calls = 3, answered["workers"][0]["calls"]
    steps = calls["ReshapeAndCache"] // layers
    assert steps > answered["workers"][0]["forwards"]


@pytest.mark.parametrize(
    ("environment", "adapter"),
    [pytest.param(OWN, None, marks=pytest.mark.long), ({}, "native.LlamaForCausalLM")],
    ids=["own", "native"],
)
def test_vllm_serve_in_several_processes(models, tmp_path, environment, adapter) -> None:
    """API server, engine core and what they start, in vLLM's default mode, with requests at the same time."""
    model = models("text")
    options = ("--max-model-len", "256", "--max-num-seqs", "8", "--num-gpu-blocks-override", "64")
    with (
        running_server(model["folder"], tmp_path, *options, **environment) as server,
        ThreadPoolExecutor(len(PROMPTS) * 4) as pool,
    ):

        def ask(prompt: list[int]) -> list[int]:
            body = {"prompt": prompt, "max_tokens": LONG, "temperature": 0, "ignore_eos": True}
            answered = server.post("/v1/completions", body | {"return_token_ids": True})
            return answered["choices"][0]["token_ids"]

        answers = list(pool.map(ask, PROMPTS * 4))
        log = server.log()
    assert answers == model["answers"] * 4
    if adapter is None:
        assert "Replaying aclgraph" in log
    else:
        assert f"{adapter} answers" in log


@pytest.mark.long
@pytest.mark.parametrize("case", ["qwen2", "telechat3", "qwen3-moe", "glm4", "glm4-moe", "deepseek"])
def test_other_networks_of_mindformers(models, serve, op_stand_ins, case: str) -> None:
    """Experts and a latent cache among them; the tiny models are those of tests/engine."""
    architecture, model_type, fields = CASES[case]
    model = models(model_type, **fields)
    asked = {"architectures": [f"stand_in.{architecture}"]}
    answered = serve(
        model["folder"], {"PYTHONPATH": op_stand_ins}, hf_overrides=asked, trust_remote_code=True
    )
    assert adapter_of(answered) == f"stand_in.{architecture}"
    assert answered["answers"] == model["answers"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("environment", "adapter"), [(OWN, None), ({}, "native.LlamaForCausalLM")], ids=["own", "native"]
)
def test_two_ranks(models, serve, environment, adapter) -> None:
    model = models("llama")
    # The engine in a process of its own: vLLM 0.23 leaves a socket open that the test's would wait for at its end.
    apart = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    answered = serve(model["folder"], environment | apart, tensor_parallel_size=2)
    assert [worker["adapter"] for worker in answered["workers"]] == [adapter] * 2
    assert answered["answers"] == model["answers"]


@pytest.mark.long
@pytest.mark.parametrize("suite", ["native", "stand_in"])
def test_chunks_and_cached_prefixes(models, serve, op_stand_ins, suite: str) -> None:
    """A prompt is computed in pieces beside other requests', and what was computed once is read from the cache."""
    model = models("qwen3")
    asked = {"architectures": [f"{suite}.Qwen3ForCausalLM"]}
    answered = serve(
        model["folder"],
        {"PYTHONPATH": op_stand_ins},
        hf_overrides=asked,
        max_num_batched_tokens=48,
        enable_prefix_caching=True,
        prompts=[*PROMPTS, *PROMPTS],
        disable_log_stats=False,
    )
    assert adapter_of(answered) == f"{suite}.Qwen3ForCausalLM"
    assert answered["answers"] == model["answers"] * 2
    assert answered["metrics"]["vllm:prefix_cache_hits"] >= 128
