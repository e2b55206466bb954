"""Engines of the real vllm-ascend: vLLM's own model shows that the stand-in is right, and then ours serve on it."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.engine.odd_checkpoints import make_other_weights
from tests.engine.server import running_server
from tests.engine.sites import _sources as sources_of
from tests.engine.sites import install, on_path
from tests.engine.test_mindformers import CASES

from .conftest import LONG, PROMPTS, ROOT

LONG_TEST = pytest.mark.long
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


@pytest.mark.parametrize("eager", [pytest.param(True, marks=LONG_TEST), False])
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
    assert "mszoo has never been tried on an NPU: check the answers of native.LlamaForCausalLM" in log
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
    "architecture", ["Qwen2ForCausalLM", pytest.param("OPTForCausalLM", marks=LONG_TEST)]
)
def test_a_decoder_of_mindspore_one(models, serve, architecture: str) -> None:
    """In vLLM's default mode; OPT has norms of mean and variance, and adds learned positions."""
    model, adapter = models(architecture), f"mindone.{architecture}"
    answered = serve(model["folder"], hf_overrides={"architectures": [adapter]})
    assert adapter_of(answered) == adapter
    assert answered["workers"][0]["kernels"] == ["ascend"]
    assert answered["answers"] == model["answers"]
    assert f"{adapter} answers (kernel set ascend" in answered["log"]


#: Chosen by a softmax, and as DeepSeek-V3 does: of groups, by sigmoids and a bias, beside shared ones.
EXPERTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen3-moe": ("Qwen3MoeForCausalLM", "qwen3_moe", CASES["qwen3-moe"][2]),
    "mixtral": ("MixtralForCausalLM", "mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "glm4-moe": ("Glm4MoeForCausalLM", "glm4_moe", CASES["glm4-moe"][2]),
}


@LONG_TEST
@pytest.mark.parametrize("case", ["mixtral", "glm4-moe"])
def test_vllms_own_experts_equal_hugging_face(models, serve, case: str) -> None:
    """The stand-ins for the ops of vllm-ascend's layer of experts are right, in graphs too."""
    _, model_type, fields = EXPERTS[case]
    model = models(model_type, **fields)
    answered = serve(model["folder"], OWN)
    assert adapter_of(answered) is None
    assert answered["answers"] == model["answers"]
    assert "Replaying aclgraph" in answered["log"]


@pytest.mark.parametrize(
    ("case", "suite", "eager"),
    [
        ("glm4-moe", "native", False),
        *(
            pytest.param(*rest, marks=LONG_TEST)
            for rest in (
                ("glm4-moe", "native", True),
                ("qwen3-moe", "native", False),
                ("qwen3-moe", "mindone", False),
                ("mixtral", "mindone", True),
            )
        ),
    ],
)
def test_experts(models, serve, case: str, suite: str, eager: bool) -> None:
    """Chosen by mszoo's router, multiplied by vllm-ascend's layer; a long prompt in pieces beside others."""
    architecture, model_type, fields = EXPERTS[case]
    model, adapter = models(model_type, **fields), f"{suite}.{architecture}"
    asked = {"architectures": [adapter]}
    answered = serve(model["folder"], hf_overrides=asked, enforce_eager=eager, max_num_batched_tokens=48)
    assert adapter_of(answered) == adapter
    assert answered["workers"][0]["kernels"] == ["ascend"]
    assert answered["answers"] == model["answers"]
    log = answered["log"]
    assert "mszoo: experts are multiplied by vllm-ascend's layer of them" in log
    assert f"{adapter} answers (kernel set ascend" in log
    assert ("vLLM's graphs (cudagraph_mode FULL_AND_PIECEWISE) are off" in log) != eager


@LONG_TEST
@pytest.mark.parametrize(
    ("case", "suite"), [("glm4-moe", "native"), ("mixtral", "mindone"), ("qwen3-moe", "stand_in")]
)
def test_experts_on_two_ranks(models, serve, op_stand_ins, case: str, suite: str) -> None:
    """Each rank has a part of every expert; MindSpore Transformers' cells then have mszoo's layers."""
    architecture, model_type, fields = EXPERTS[case]
    model, adapter = models(model_type, **fields), f"{suite}.{architecture}"
    apart = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "PYTHONPATH": op_stand_ins}
    asked = {"architectures": [adapter]}
    answered = serve(model["folder"], apart, hf_overrides=asked, tensor_parallel_size=2)
    assert [worker["adapter"] for worker in answered["workers"]] == [adapter] * 2
    assert answered["answers"] == model["answers"]


@LONG_TEST
@pytest.mark.parametrize("ranks", [1, 2])
def test_latent_attention_with_whole_heads_in_the_cache(models, serve, ranks: int) -> None:
    architecture, model_type, fields = CASES["deepseek"]
    model, adapter = models(model_type, **fields), f"native.{architecture}"
    whole = {"VLLM_MLA_DISABLE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": str(ranks - 1)}
    asked = {"architectures": [adapter]}
    answered = serve(model["folder"], whole, hf_overrides=asked, tensor_parallel_size=ranks)
    assert [worker["adapter"] for worker in answered["workers"]] == [adapter] * ranks
    assert answered["answers"] == model["answers"]


@LONG_TEST
def test_latent_attention_says_what_serves_it(models, serve) -> None:
    architecture, model_type, fields = CASES["deepseek"]
    why = "latent attention: vLLM's layer for it is used on CPU only. .*set VLLM_MLA_DISABLE=1"
    with pytest.raises(AssertionError, match=why):
        serve(
            models(model_type, **fields)["folder"], hf_overrides={"architectures": [f"native.{architecture}"]}
        )


@LONG_TEST
def test_other_weights_of_experts(models, serve, tmp_path) -> None:
    """vllm-ascend's layer keeps them turned round, which a reload undoes first."""
    model, adapter = models("mixtral", **EXPERTS["mixtral"][2]), "native.MixtralForCausalLM"
    other = make_other_weights(model["folder"], tmp_path / "other")
    asked = {"architectures": [adapter]}
    job = {"reload": [str(other), str(model["folder"])]}
    answered = serve(model["folder"], job=job, hf_overrides=asked)
    assert adapter_of(answered) == adapter
    others, same = answered["reloaded"]
    assert same == answered["answers"] == model["answers"] != others


@pytest.mark.parametrize("suite", ["native", pytest.param("mindone", marks=LONG_TEST)])
def test_an_encoder(models, serve, suite: str) -> None:
    model, adapter = models("BertModel"), f"{suite}.BertModel"
    asked = {"architectures": [adapter]}
    answered = serve(model["folder"], job={"embed": True}, hf_overrides=asked, skip_tokenizer_init=False)
    assert adapter_of(answered) == adapter
    assert answered["workers"][0]["kernels"] == ["ascend"]
    for given, expected in zip(answered["answers"], model["answers"], strict=True):
        assert given == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("suite", "model_type", "architecture"),
    [
        ("native", "llama", "LlamaForCausalLM"),
        ("stand_in", "qwen3", "Qwen3ForCausalLM"),
        pytest.param("mindone", "llama", "LlamaForCausalLM", marks=LONG_TEST),
    ],
)
def test_lora_adapters(models, serve, op_stand_ins, suite: str, model_type: str, architecture: str) -> None:
    """On linear layers, embedding and output projection, beside requests without one: as merged into weights."""
    model, adapter = models(model_type, lora=True), f"{suite}.{architecture}"
    lora = [str(model["lora"]), None, None, str(model["lora"])]
    answered = serve(
        model["folder"],
        {"PYTHONPATH": op_stand_ins},
        job={"lora": lora},
        hf_overrides={"architectures": [adapter]},
        enable_lora=True,
        max_lora_rank=8,
    )
    assert adapter_of(answered) == adapter
    merged, plain = model["lora_answers"], model["answers"]
    assert answered["answers"] == [merged[0], plain[1], plain[2], merged[3]]


@LONG_TEST
@pytest.mark.parametrize("suite", ["native", "mindone"])
def test_sleep_and_other_weights(models, serve, tmp_path, suite: str) -> None:
    """Asleep, what lay in the weights is gone: at level 1 it comes back, at level 2 it is loaded again."""
    model, adapter = models("llama"), f"{suite}.LlamaForCausalLM"
    other = make_other_weights(model["folder"], tmp_path / "other")
    answered = serve(
        model["folder"],
        job={"sleep": [1, 2], "reload": [str(other), str(model["folder"])]},
        hf_overrides={"architectures": [adapter]},
        enable_sleep_mode=True,
        additional_config={"weight_nz_mode": 0},  # vllm-ascend wakes up in no other
    )
    assert adapter_of(answered) == adapter
    assert answered["answers"] == model["answers"]
    assert answered["woken"] == [model["answers"]] * 2
    others, same = answered["reloaded"]
    assert same == model["answers"] != others


@LONG_TEST
def test_half_precision(models, serve) -> None:
    """What rotates in half precision is Ascend's own op; the first tokens are float32's."""
    model = models("llama")
    answered = serve(model["folder"], dtype="float16")
    assert adapter_of(answered) == "native.LlamaForCausalLM"
    assert [given[:3] for given in answered["answers"]] == [expected[:3] for expected in model["answers"]]


#: vLLM 0.23 gathers what each rank made of a merged projection's LoRA whether or not it is sharded. Where it isn't,
#: that is twice the rank that vllm-ascend's kernels count on.
LORA_ON_RANKS = ("--tensor-parallel-size", "2", "--fully-sharded-loras")
#: Who serves the text model, and vLLM's options for it.
SERVERS: dict[str, tuple[dict[str, str], str | None, str, tuple[str, ...]]] = {
    "own": (OWN, None, "llama", ()),
    "native": ({}, "native.LlamaForCausalLM", "llama", ()),
    "native-eager": ({}, "native.LlamaForCausalLM", "llama", ("--enforce-eager",)),
    "native-ranks": ({}, "native.LlamaForCausalLM", "llama", ("--tensor-parallel-size", "2")),
    "mindone": ({}, "mindone.LlamaForCausalLM", "llama", ()),
    "mindone-eager": ({}, "mindone.LlamaForCausalLM", "llama", ("--enforce-eager",)),
    "mindone-ranks": ({}, "mindone.LlamaForCausalLM", "llama", ("--tensor-parallel-size", "2")),
    "stand_in": ({}, "stand_in.Qwen3ForCausalLM", "qwen3", ()),
    "stand_in-eager": ({}, "stand_in.Qwen3ForCausalLM", "qwen3", ("--enforce-eager",)),
    "native-lora-ranks": ({}, "native.LlamaForCausalLM", "llama", LORA_ON_RANKS),
    "mindone-lora-ranks": ({}, "mindone.LlamaForCausalLM", "llama", LORA_ON_RANKS),
    "stand_in-lora-ranks": ({}, "stand_in.Qwen3ForCausalLM", "qwen3", LORA_ON_RANKS),
}


@pytest.mark.parametrize(
    "who", [pytest.param(name, marks=[] if name == "native" else [LONG_TEST]) for name in SERVERS]
)
def test_vllm_serve_in_several_processes(models, tmp_path, op_stand_ins, who: str) -> None:
    """API server, engine core and what they start; 16 requests at a time, in chunks, with cached prefixes.

    With LoRA others for an adapter stand among them, and are answered as merged into the weights.
    """
    environment, adapter, model_type, flags = SERVERS[who]
    lora = "lora" in who
    model = models("text", model_type=model_type, lora=lora)
    options = ["--max-model-len", "256", "--max-num-seqs", "8", "--num-gpu-blocks-override", "64"]
    options += ["--max-num-batched-tokens", "48", "--enable-prefix-caching", *flags]
    if adapter is not None:
        options += ["--hf-overrides", json.dumps({"architectures": [adapter]})]
    if lora:
        options += ["--enable-lora", "--max-lora-rank", "16", "--lora-modules", f"tuned={model['lora']}"]
    environment = environment | {"PYTHONPATH": op_stand_ins}
    with (
        running_server(model["folder"], tmp_path, *options, **environment) as server,
        ThreadPoolExecutor(len(PROMPTS) * 4) as pool,
    ):

        def ask(prompt: list[int], **more: str) -> list[int]:
            body = more | {"prompt": prompt, "max_tokens": LONG, "temperature": 0, "ignore_eos": True}
            answered = server.post("/v1/completions", body | {"return_token_ids": True})
            return answered["choices"][0]["token_ids"]

        of_adapter = [pool.submit(ask, prompt, model="tuned") for prompt in PROMPTS] if lora else []
        answers = list(pool.map(ask, PROMPTS * 4))
        assert [future.result() for future in of_adapter] == (model["lora_answers"] if lora else [])
        before = server.metric("vllm:prefix_cache_hits_total")
        assert ask(PROMPTS[-1]) == model["answers"][-1]
        assert server.metric("vllm:prefix_cache_hits_total") - before == 128
        log = server.log()
    assert answers == model["answers"] * 4
    if adapter is None:
        assert "Replaying aclgraph" in log
    else:
        assert len(re.findall(rf"{adapter} answers", log)) == (2 if "ranks" in who else 1)


@LONG_TEST
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


@LONG_TEST
def test_two_ranks_of_vllms_own_llama(models, serve) -> None:
    model = models("llama")
    # The engine in a process of its own: vLLM 0.23 leaves a socket open that the test's would wait for at its end.
    apart = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    answered = serve(model["folder"], OWN | apart, tensor_parallel_size=2)
    assert [worker["adapter"] for worker in answered["workers"]] == [None] * 2
    assert answered["answers"] == model["answers"]


@LONG_TEST
@pytest.mark.parametrize("suite", ["native", "mindone", "stand_in"])
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
