"""Checkpoints that need more of vLLM than plain weights: GPTQ, LoRA on the head, Mistral's format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from safetensors.torch import load_file, save_file

_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_MISTRAL = {
    "self_attn": "attention",
    "q_proj": "wq",
    "k_proj": "wk",
    "v_proj": "wv",
    "o_proj": "wo",
    "mlp": "feed_forward",
    "gate_proj": "w1",
    "down_proj": "w2",
    "up_proj": "w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "embed_tokens": "tok_embeddings",
    "lm_head": "output",
}


def make_gptq(
    source: Path, folder: Path, reference: Path, *, group: int = 32, shuffled: bool = False
) -> Path:
    """Write ``source`` again with 4-bit weights, as AutoGPTQ stores them: symmetric, by groups of inputs.

    Args:
        source: a checkpoint.
        folder: the new one.
        reference: gets the same weights, not packed.
        group: inputs that share a scale.
        shuffled: whether the inputs are in the order of their activations, which desc_act false denies.
    """
    shutil.copytree(source, folder)
    shutil.copytree(source, reference)
    tensors: dict[str, torch.Tensor] = {}
    plain = load_file(source / "model.safetensors")
    for name, weight in plain.items():
        if ".layers." not in name or weight.dim() != 2:
            tensors[name] = weight
            continue
        columns = weight.t().float()  # [in, out]
        groups = torch.arange(len(columns), dtype=torch.int32) // group
        if shuffled:
            groups = groups.flip(0)
        scales = torch.stack([columns[groups == index].abs().amax(0) / 7 for index in groups.unique()]).half()
        scale = scales[groups.long()].float()
        values = (columns / scale).round().clamp(-8, 7)
        plain[name] = (values * scale).t().contiguous()
        base = name.removesuffix("weight")
        tensors[f"{base}qweight"] = _packed(values.long() + 8)
        tensors[f"{base}scales"] = scales
        tensors[f"{base}qzeros"] = torch.full(
            (len(scales), weight.shape[0] // 8), 0x77777777, dtype=torch.int32
        )
        tensors[f"{base}g_idx"] = groups
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    save_file(plain, reference / "model.safetensors", metadata={"format": "pt"})
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": group, "desc_act": False, "sym": True}
    return _with_config(folder, quantization_config=quantization)


def _packed(values: torch.Tensor) -> torch.Tensor:
    """Return eight 4-bit values of a column in one integer: [in, out] -> [in / 8, out]."""
    packed = torch.zeros(values.shape[0] // 8, values.shape[1], dtype=torch.int64)
    for place in range(8):
        packed |= values[place::8] << (4 * place)
    return torch.where(packed < 2**31, packed, packed - 2**32).to(torch.int32)


def make_whole_lora(
    source: Path,
    folder: Path,
    modules: Sequence[str] = (*_LINEAR, "lm_head", "embed_tokens"),
    rank: int = 8,
    size: float = 0.2,
) -> Path:
    """Write a LoRA adapter of PEFT's format: on all linear layers, the output projection and the embedding."""
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * size

    tensors = {}
    for name, weight in load_file(source / "model.safetensors").items():
        module = name.removesuffix(".weight")
        leaf, base = module.rpartition(".")[2], f"base_model.model.{module}"
        if leaf not in modules:
            continue
        if leaf == "embed_tokens":
            tensors[f"{base}.lora_embedding_A"] = drawn(rank, weight.shape[0])
            tensors[f"{base}.lora_embedding_B"] = drawn(weight.shape[1], rank)
        else:
            tensors[f"{base}.lora_A.weight"] = drawn(rank, weight.shape[1])
            tensors[f"{base}.lora_B.weight"] = drawn(weight.shape[0], rank)
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 16,
        "target_modules": list(modules),
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def merged(source: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint that an adapter on linear layers is merged into, as PEFT merges it."""
    weights = load_file(source / "model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    parts = load_file(adapter / "adapter_model.safetensors")
    for name in [name for name in parts if name.endswith(".lora_A.weight")]:
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        added = parts[name.replace("lora_A", "lora_B")] @ parts[name] * config["lora_alpha"] / config["r"]
        weight = weights[f"{module}.weight"]
        weights[f"{module}.weight"] = weight + (added if added.shape == weight.shape else added.t())
    return weights


def make_other_weights(source: Path, folder: Path) -> Path:
    """Write a checkpoint again with the rows of its layers' weights in another order."""
    shutil.copytree(source, folder)
    tensors = load_file(source / "model.safetensors")
    for name, tensor in tensors.items():
        if ".layers." in name:
            tensors[name] = tensor.flip(0).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_mistral_format(source: Path, folder: Path) -> Path:
    """Write a Mistral again as its publisher does: params.json, consolidated.safetensors, other names."""
    config = json.loads((source / "config.json").read_text())
    size = config["head_dim"]
    tensors = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        parts = name.removeprefix("model.").split(".")
        rotates = name.endswith(("q_proj.weight", "k_proj.weight"))
        theirs = _interleaved(tensor, size) if rotates else tensor
        tensors[".".join(_MISTRAL.get(part, part) for part in parts)] = theirs
    folder.mkdir()
    save_file(tensors, folder / "consolidated.safetensors")
    parameters = {
        "dim": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "head_dim": size,
        "hidden_dim": config["intermediate_size"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "norm_eps": config["rms_norm_eps"],
        "vocab_size": config["vocab_size"],
        "rope_theta": config["rope_parameters"]["rope_theta"],
        "max_position_embeddings": config["max_position_embeddings"],
    }
    (folder / "params.json").write_text(json.dumps(parameters))
    return folder


def _interleaved(weight: torch.Tensor, size: int) -> torch.Tensor:
    """Return the rows with the halves of each head, which rotate, in turn."""
    return weight.view(-1, 2, size // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape).contiguous()


def _with_config(folder: Path, **fields: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder
