"""What a native model inherits from vLLM by keeping its weights in vLLM's layers: LoRA, tensor parallelism,
quantized checkpoints. Each against vLLM's own model on the same work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from .answers import run

PROMPTS = [[5, 17, 99, 201, 3, 44, 180], [7, 8, 250], list(range(3, 43))]
ADAPTER = "native.LlamaForCausalLM"


def compare(job: dict[str, Any], tmp_path: Path, workers: int = 1, **environment: str) -> list[list[int]]:
    """Assert that the native model and vLLM's own give the same tokens, each itself; return the tokens."""
    job = {"prompts": PROMPTS} | job
    ours = run(job, tmp_path / "ours.json", **environment)
    own = run(job, tmp_path / "own.json", **environment, MSZOO_DISABLE="1")
    assert len(ours["workers"]) == len(own["workers"]) == workers
    for worker in ours["workers"]:
        assert worker["adapter"] == ADAPTER
        assert worker["forwards"] > 0
    for worker in own["workers"]:
        assert worker["adapter"] is None
        assert "vllm.model_executor.models.llama.LlamaForCausalLM" in worker["classes"]
    assert ours["answers"] == own["answers"]
    assert ours["logprobs"] == pytest.approx(own["logprobs"], abs=2e-3)
    return ours["answers"]


@pytest.mark.parametrize(
    ("kernels", "fields"),
    [("cpu", {"num_key_value_heads": 1, "vocab_size": 251}), ("mindspore", {})],
    ids=["cpu-odd", "mindspore-even"],
)
def test_tensor_parallel(kernels: str, fields: dict[str, Any], checkpoint, tmp_path: Path) -> None:
    """Two ranks; once with fewer key/value heads than ranks and a vocabulary that two don't divide."""
    job = {"model": str(checkpoint("llama", **fields)), "options": {"tensor_parallel_size": 2}}
    compare(job, tmp_path, 2, VLLM_CPU_OMP_THREADS_BIND="0|1", MSZOO_KERNELS=kernels)


@pytest.mark.parametrize("kernels", ["cpu", "mindspore"])
def test_lora(kernels: str, checkpoint, tmp_path: Path) -> None:
    """Two LoRA adapters in one batch, one of them for two requests: the answers of vLLM's own model.

    A request without an adapter beside them is left out: vLLM 0.32 gives it an adapter's answer on CPU, with its
    own model too.
    """
    adapters = [str(make_lora(tmp_path / f"lora{seed}", seed)) for seed in (1, 2)]
    job = {
        "model": str(checkpoint("llama")),
        "options": {"enable_lora": True, "max_lora_rank": 8, "max_loras": 2},
        "lora": [adapters[0], adapters[1], adapters[0]],
    }
    with_lora = compare(job, tmp_path, MSZOO_KERNELS=kernels)
    without = run({"model": job["model"], "prompts": PROMPTS}, tmp_path / "without.json")["answers"]
    assert all(ours != plain for ours, plain in zip(with_lora, without, strict=True))


def test_quantized_checkpoint(checkpoint, tmp_path: Path) -> None:
    """compressed-tensors W8A8: int8 weights per channel, int8 activations per token."""
    folder = make_w8a8(checkpoint("llama"), tmp_path / "w8a8")
    compare({"model": str(folder)}, tmp_path)


def make_lora(folder: Path, seed: int) -> Path:
    """Write a rank 8 LoRA adapter of the tiny Llama on all its linear layers, in the format of PEFT."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    shapes = {  # out, in
        "self_attn.q_proj": (128, 64),
        "self_attn.k_proj": (64, 64),
        "self_attn.v_proj": (64, 64),
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
