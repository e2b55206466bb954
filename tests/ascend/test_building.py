"""Who serves, and who is refused by name before weights are read; no engine starts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from tests.engine.sites import install, on_path

from .conftest import ROOT

#: A suite before all others, whose network builds and doesn't run.
BROKEN = '''
"""A suite of mszoo."""

from mszoo.models.llama import LlamaForCausalLM
from mszoo.registry import ModelAdapter, Suite, hookimpl


class Raises(LlamaForCausalLM):
    def compute_logits(self, hidden_states):
        raise RuntimeError("the device takes no such op")


@hookimpl
def mszoo_suite():
    return Suite("broken")


@hookimpl
def mszoo_model_adapters():
    return [ModelAdapter("LlamaForCausalLM", "broken_suite:Raises", priority=1)]
'''

NATIVE, FORMERS, ONE = "native.LlamaForCausalLM", "mindformers.Qwen3ForCausalLM", "mindone.LlamaForCausalLM"
MIXTRAL = "mindone.MixtralForCausalLM"
_INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
W8A8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": _INT8 | {"strategy": "channel", "dynamic": False},
            "input_activations": _INT8 | {"strategy": "token", "dynamic": True},
        }
    },
}
#: Checkpoint, adapter, options, and what the refusal says, or nothing where it serves.
JOBS: dict[str, tuple[str, str, dict[str, Any], str | None]] = {
    "native": ("llama", NATIVE, {}, None),
    "native-explained": ("llama", NATIVE, {}, None),
    "mindformers": ("qwen3", FORMERS, {"dtype": "float16"}, None),
    "native-sleep": ("llama", NATIVE, {"enable_sleep_mode": True}, None),
    "mindone-sleep": ("llama", ONE, {"enable_sleep_mode": True}, None),
    "mindformers-sleep": ("qwen3", FORMERS, {"enable_sleep_mode": True, "dtype": "float16"}, None),
    "mindformers-lora": ("qwen3", FORMERS, {"enable_lora": True, "dtype": "float16"}, None),
    "mindformers-experts-lora": (
        "qwen3_moe",
        "mindformers.Qwen3MoeForCausalLM",
        {"enable_lora": True, "dtype": "float16"},
        "mindformers.Qwen3MoeForCausalLM: doesn't support --enable-lora. Serve without it, or with another",
    ),
    "native-float32": (
        "llama",
        NATIVE,
        {},
        "--dtype float32: AscendAttentionBackend attends in float16 and bfloat16. Serve with --dtype bfloat16",
    ),
    "mindformers-float32": (
        "qwen3",
        FORMERS,
        {},
        "doesn't support dtype float32. Serve with --dtype bfloat16",
    ),
    "native-cache": (
        "llama",
        NATIVE,
        {"kv_cache_dtype": "fp8"},
        "--kv-cache-dtype fp8: vllm-ascend's attention writes keys and values of the model's dtype, float32, as",
    ),
    "native-own-cache": ("llama", NATIVE, {"kv_cache_dtype": "float16", "dtype": "float16"}, None),
    "mindformers-cache": (
        "qwen3",
        FORMERS,
        {"kv_cache_dtype": "fp8", "dtype": "float16"},
        "--kv-cache-dtype: the KV cache is to be fp8, and a network that attends by itself writes its own dtype",
    ),
    "mindformers-bfloat16": (
        "qwen3",
        FORMERS,
        {"dtype": "bfloat16"},
        "Install numpy 1.26 (pip install --no-deps",
    ),
    "native-quantized": (
        "llama",
        NATIVE,
        {
            "dtype": "float16",
            "hf_overrides": {"architectures": [NATIVE], "quantization_config": W8A8},
        },
        "mszoo.layers: takes no checkpoint with compressed-tensors weights on NPU. Serve an unquantized one",
    ),
    "lora-on-ranks": (
        "llama",
        NATIVE,
        {"enable_lora": True, "tensor_parallel_size": 2, "dtype": "float16"},
        "LoRA on several ranks: this vLLM and vllm-ascend's kernels differ in the rank of what they exchange, "
        "and answers would be wrong. Serve it with --fully-sharded-loras",
    ),
    "experts-lora": (
        "mixtral",
        MIXTRAL,
        {"enable_lora": True},
        "--enable-lora: it has experts, and nobody tried adapters beside vllm-ascend's layer of them. Merge the",
    ),
    "no-memory": (
        "llama",
        NATIVE,
        {},
        f"{NATIVE}: the device has no memory left for it (NPU out of memory (stand-in). Tried to allocate ",
    ),
    "encoder": ("BertModel", "native.BertModel", {"runner": "pooling"}, None),
    "encoder-window": (
        "ModernBertModel",
        "native.ModernBertModel",
        {"runner": "pooling"},
        "see later ones within a window, and vllm-ascend's attention takes no notice of that. Serve the model on a",
    ),
    "encoder-bias": (
        "MPNetModel",
        "native.MPNetModel",
        {"runner": "pooling"},
        "see later ones, and models whose scores have a bias then are served on a CPU alone. Serve the model with",
    ),
    "embeddings": ("llama", NATIVE, {"runner": "pooling", "convert": "embed"}, None),
    "experts": ("mixtral", MIXTRAL, {}, None),
    "experts-parallel": (
        "mixtral",
        MIXTRAL,
        {"enable_expert_parallel": True, "tensor_parallel_size": 2},
        "--enable-expert-parallel: nobody tried vllm-ascend's exchange of tokens between ranks with mszoo's layers",
    ),
    "experts-sleep": (
        "mixtral",
        MIXTRAL,
        {"enable_sleep_mode": True},
        "--enable-sleep-mode: vllm-ascend turns experts' weights round when it wakes up, for others",
    ),
    "experts-overlap": (
        "mixtral",
        MIXTRAL,
        {"additional_config": {"multistream_overlap_gate": True}},
        "--additional-config multistream_overlap_gate: vllm-ascend has it for experts between layers of its own",
    ),
    "experts-cap": (
        "mixtral",
        MIXTRAL,
        {"hf_overrides": {"architectures": [MIXTRAL], "swiglu_limit": 7.0}},
        "swiglu_limit, by which vllm-ascend's layer of experts caps them whatever the model",
    ),
    "cap": (
        "gemma2",
        "mindone.Gemma2ForCausalLM",
        {},
        "attention's scores are capped at 50.0, and vllm-ascend's",
    ),
}


#: They share what one process builds.
pytestmark = pytest.mark.xdist_group("building")


@pytest.fixture(scope="module")
def built(models, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Build all jobs in one process, and without a suite's name the Llama with a broken suite before native."""
    folder = tmp_path_factory.mktemp("built")
    install(folder / "site", "broken-suite", "[mszoo]\nbroken = broken_suite\n", {"broken_suite.py": BROKEN})
    common = {"skip_tokenizer_init": True, "dtype": "float32", "max_model_len": 128}
    jobs = {"broken": {"options": common | {"model": str(models("llama")["folder"])}}}
    for name, (kind, adapter, options, _) in JOBS.items():
        asked = {"model": str(models(kind)["folder"]), "hf_overrides": {"architectures": [adapter]}}
        jobs[name] = {"options": common | asked | options, "real_attention": name == "native-float32"}
    jobs["experts-of-all"] = {"options": common | {"model": str(models("mixtral")["folder"])}}
    jobs["no-memory"]["free"] = 1 << 16
    jobs["native-explained"]["on"] = "cpu"  # as mszoo explain builds it
    process = subprocess.run(
        [sys.executable, "-m", "tests.ascend.building", str(folder / "built.json")],
        input=json.dumps(jobs),
        env=os.environ | {"PYTHONPATH": on_path(folder / "site", ROOT), "VLLM_LOGGING_LEVEL": "INFO"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return json.loads((folder / "built.json").read_text()) | {"log": process.stdout + process.stderr}


@pytest.mark.parametrize("name", JOBS)
def test_a_flag_is_honoured_or_refused_by_name(name: str, built: dict[str, Any]) -> None:
    _, adapter, _, refusal = JOBS[name]
    if refusal is None:
        assert (built[name]["served"], built[name]["refusals"]) == (adapter, [])
        return
    assert built[name]["served"] is None
    (text,) = built[name]["refusals"]
    assert refusal in text


def test_what_vllms_layers_alone_have_decides_of_the_network(built: dict[str, Any]) -> None:
    """MindSpore Transformers' own one, or that with mszoo's layers in its cells, which says so."""
    names = ("mindformers", "mindformers-lora", "mindformers-sleep")
    assert [built[name]["network"] for name in names] == ["OwnNetwork", "SuiteModel", "SuiteModel"]
    for flag in ("--enable-lora", "--enable-sleep-mode"):
        assert f"mszoo: {FORMERS}: mszoo's layers take the places of its cells for {flag}" in built["log"]
    assert "declares lora" not in built["log"]


def test_who_multiplies_experts_is_told(built: dict[str, Any]) -> None:
    """vllm-ascend's own layer, in a model of each suite whose layers are mszoo's."""
    assert built["experts-of-all"]["served"] == "native.MixtralForCausalLM"
    assert "mszoo: experts are multiplied by vllm-ascend's layer of them" in built["log"]


def test_a_device_without_memory_is_no_fault_of_the_plugins(built: dict[str, Any]) -> None:
    (text,) = built["no-memory"]["refusals"]
    assert text.endswith(
        "End what else uses the device (npu-smi info), take another one (ASCEND_RT_VISIBLE_DEVICES), or split the "
        "model with --tensor-parallel-size"
    )


def test_a_network_that_does_not_run_is_refused_and_the_next_is_taken(built: dict[str, Any]) -> None:
    assert built["broken"]["served"] == NATIVE
    (refusal,) = built["broken"]["refusals"]
    assert refusal.startswith(
        "broken.LlamaForCausalLM: its first step raised RuntimeError: the device takes no such op. "
    )


def test_who_takes_no_dry_step_is_told(built: dict[str, Any]) -> None:
    """A network on the host can't run, and one that multiplies by itself has no weights yet."""
    found = re.findall(r"mszoo: (\S+): no dry step before loading: (.*)", built["log"])
    own = "its products are its own, and would read weights that aren't there yet"
    assert sorted(found) == [(FORMERS, own), (NATIVE, "it isn't built on the NPU")]
