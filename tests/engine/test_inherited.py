"""What a native model inherits from vLLM by keeping its weights in vLLM's layers: LoRA, tensor parallelism,
quantized checkpoints. Each against vLLM's own model on the same work, on one rank."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import pytest

from mszoo.adapters import native
from mszoo.conformance.processor import int8_dtype
from tests.published import corpus

from .answers import run
from .conftest import give_routers_a_bias

PROMPTS = [[5, 17, 99, 201, 3, 44, 180], [7, 8, 250], list(range(3, 43))]
ADAPTER = "native.LlamaForCausalLM"


Own = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Own:
    """The answers of vLLM's own model to a job, on one rank; equal jobs run once."""
    done: dict[str, dict[str, Any]] = {}

    def answer(job: dict[str, Any]) -> dict[str, Any]:
        key = json.dumps(job, sort_keys=True)
        if key not in done:
            done[key] = run(job, tmp_path_factory.mktemp("own") / "own.json", MSZOO_DISABLE="1")
            (worker,) = done[key]["workers"]
            assert worker["adapter"] is None
            assert "vllm.model_executor.models.llama.LlamaForCausalLM" in worker["classes"]
        return done[key]

    return answer


def compare(ours: dict[str, Any], own: dict[str, Any], workers: int = 1, rounding: float = 2e-3) -> None:
    """Assert that the native model served, on so many ranks, and gave the same as vLLM's own model."""
    assert len(ours["workers"]) == workers
    for worker in ours["workers"]:
        assert worker["adapter"] == ADAPTER
        assert worker["forwards"] > 0
    assert ours["answers"] == own["answers"]
    assert ours["logprobs"] == pytest.approx(own["logprobs"], abs=rounding)


@pytest.mark.parametrize(
    ("kernels", "fields"), [("cpu", {"num_key_value_heads": 1, "vocab_size": 251})], ids=["cpu-odd"]
)
def test_tensor_parallel(kernels: str, fields: dict[str, Any], checkpoint, own: Own, tmp_path: Path) -> None:
    """Two ranks, with fewer key/value heads than ranks and a vocabulary that two don't divide.

    test_mindone_configs.py has ranks of the ``mindspore`` kernel set.
    """
    job = {"model": str(checkpoint("llama", **fields)), "prompts": PROMPTS}
    ranks = job | {"options": {"tensor_parallel_size": 2}}
    ours = run(ranks, tmp_path / "ours.json", VLLM_CPU_OMP_THREADS_BIND="0|1", MSZOO_KERNELS=kernels)
    compare(ours, own(job), workers=2)


@pytest.mark.parametrize(
    ("architecture", "fields", "ways"),
    [
        ("DeepseekV3ForCausalLM", {}, ("tensor", "pipeline")),
        # All queries are normed together, and all keys, which both ranks have.
        ("Olmo2ForCausalLM", {"num_key_value_heads": 1}, ("tensor",)),
        pytest.param("OlmoeForCausalLM", {}, ("tensor",), marks=pytest.mark.long),
        pytest.param("MiniMaxM2ForCausalLM", {}, ("tensor",), marks=pytest.mark.long),
        # Each head is normed by a weight of its own.
        pytest.param("CohereForCausalLM", {"use_qk_norm": True}, ("tensor",), marks=pytest.mark.long),
        pytest.param("StableLmForCausalLM", {"qk_layernorm": True}, ("tensor",), marks=pytest.mark.long),
        # Tied, with learned positions.
        pytest.param("GPT2LMHeadModel", {}, ("pipeline",), marks=pytest.mark.long),
    ],
)
def test_ranks_share_a_model_out(
    architecture: str, fields: dict[str, Any], ways: tuple[str, ...], tmp_path: Path
) -> None:
    """Two ranks give the answers of one.

    Each has a part of every expert and of a latent cache's heads, or a stage of the layers. A first step of vLLM's
    own makes room for what stages hand over, which --enforce-eager leaves out on CPU.
    """
    (record,) = (one for one in native.mszoo_model_adapters() if one.architecture == architecture)
    folder = tmp_path / "model"
    corpus.write_config(dict(record.example_config) | fields, folder)
    corpus.write_checkpoint(corpus.reference_of(folder), folder)
    give_routers_a_bias(folder)
    given = []
    for way in ("", *ways):
        options = {f"{way}_parallel_size": 2, "enforce_eager": way != "pipeline"} if way else {}
        job = {"model": str(folder), "prompts": PROMPTS, "options": options}
        done = run(job, tmp_path / f"{way}.json", VLLM_CPU_OMP_THREADS_BIND="0|1" if way else "0")
        count = 2 if way else 1
        assert [worker["adapter"] for worker in done["workers"]] == [f"native.{architecture}"] * count
        given.append(done)
    for done in given[1:]:
        assert done["answers"] == given[0]["answers"]
        assert done["logprobs"] == pytest.approx(given[0]["logprobs"], abs=1e-3)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("lora")
    return [str(make_lora(folder / str(seed), seed)) for seed in (1, 2)]


@pytest.mark.parametrize("kernels", ["cpu", pytest.param("mindspore", marks=pytest.mark.long)])
def test_lora(kernels: str, checkpoint, own: Own, adapters: list[str], tmp_path: Path) -> None:
    """Two LoRA adapters in one batch, one of them for two requests: the answers of vLLM's own model.

    A request without an adapter beside them is left out: vLLM 0.32 gives it an adapter's answer on CPU, with its
    own model too.
    """
    plain = {"model": str(checkpoint("llama")), "prompts": PROMPTS}
    job = plain | {
        "options": {"enable_lora": True, "max_lora_rank": 8, "max_loras": 2},
        "lora": [adapters[0], adapters[1], adapters[0]],
    }
    ours = run(job, tmp_path / "ours.json", MSZOO_KERNELS=kernels)
    compare(ours, own(job))
    without = own(plain)["answers"]
    assert all(answer != other for answer, other in zip(ours["answers"], without, strict=True))


@pytest.mark.long
def test_lora_on_two_ranks(checkpoint, own: Own, tmp_path: Path) -> None:
    """Each rank has a part of the adapters' matrices; one key/value head is on both."""
    one, other = (str(make_lora(tmp_path / str(seed), seed, kv_heads=1)) for seed in (1, 2))
    job = {
        "model": str(checkpoint("llama", num_key_value_heads=1)),
        "prompts": PROMPTS,
        "options": {"enable_lora": True, "max_lora_rank": 8, "max_loras": 2},
        "lora": [one, other, one],
    }
    ranks = job | {"options": job["options"] | {"tensor_parallel_size": 2}}
    ours = run(ranks, tmp_path / "ours.json", VLLM_CPU_OMP_THREADS_BIND="0|1")
    compare(ours, own(job), workers=2)


def test_quantized_checkpoint(checkpoint, own: Own, tmp_path: Path) -> None:
    """compressed-tensors W8A8: int8 weights per channel, int8 activations per token."""
    job = {
        "model": str(make_w8a8(checkpoint("llama"), tmp_path / "w8a8")),
        "prompts": PROMPTS,
        "options": {"dtype": int8_dtype()},
    }
    rounding = {"float32": 2e-3, "bfloat16": 0.1}[int8_dtype()]
    compare(run(job, tmp_path / "ours.json"), own(job), rounding=rounding)


def make_lora(folder: Path, seed: int, kv_heads: int = 2) -> Path:
    """Write a rank 8 LoRA adapter of the tiny Llama on all its linear layers, in the format of PEFT."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    shapes = {  # out, in
        "self_attn.q_proj": (128, 64),
        "self_attn.k_proj": (32 * kv_heads, 64),
        "self_attn.v_proj": (32 * kv_heads, 64),
        "self_attn.o_proj": (64, 128),
        "mlp.gate_proj": (128, 64),
        "mlp.up_proj": (128, 64),
        "mlp.down_proj": (64, 128),
    }
    tensors = {}
    for layer in range(3):
        for module, (rows, columns) in shapes.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(8, columns, generator=generator) * 0.2
            tensors[f"{name}.lora_B.weight"] = torch.randn(rows, 8, generator=generator) * 0.2
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    modules = [module.rpartition(".")[2] for module in shapes]
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": modules, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def make_w8a8(source: Path, folder: Path) -> Path:
    """Write ``source`` again with int8 weights, as compressed-tensors stores them."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if "_proj" in name]:
        weight = tensors[name]
        scale = weight.abs().amax(1, keepdim=True) / 127
        tensors[name] = (weight / scale).round().to(torch.int8)
        tensors[f"{name}_scale"] = scale
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    scheme = {"num_bits": 8, "type": "int", "symmetric": True}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": scheme | {"strategy": "channel", "dynamic": False},
                "input_activations": scheme | {"strategy": "token", "dynamic": True},
            }
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder
