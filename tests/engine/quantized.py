"""Writes checkpoints in the formats of quantized weights, and what these weights stand for."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
GROUP = 32
BLOCK = 128
_FP8 = torch.float8_e4m3fn
_FP8_LARGEST = 448.0
#: In which order AWQ's integers hold the columns.
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Format:
    """A format: what config.json says, and how a weight [out, in] is stored.

    Attributes:
        config: ``quantization_config``.
        store: gives the tensors of a weight by the ends of their names, and what they stand for.
    """

    config: dict[str, Any]
    store: Callable[[torch.Tensor], tuple[Tensors, torch.Tensor]]


def write(
    source: Path, folder: Path, reference: Path, format_name: str, *, plain_experts: bool = False
) -> Path:
    """Write a checkpoint again in a format, and beside it the weights that it then stands for.

    Routers, embeddings and the output projection stay as they are, and experts where ``plain_experts`` says so.
    """
    shutil.copytree(source, folder)
    shutil.copytree(source, reference)
    given = FORMATS[format_name]
    tensors: Tensors = {}
    plain = load_file(source / "model.safetensors")
    for name, weight in list(plain.items()):
        is_plain = name.endswith(".gate.weight") or (plain_experts and ".experts." in name)
        if ".layers." not in name or weight.dim() != 2 or is_plain:
            tensors[name] = weight
            continue
        stored, plain[name] = given.store(weight.float())
        tensors |= {name.removesuffix("weight") + end: value.contiguous() for end, value in stored.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    plain = {name: value.contiguous() for name, value in plain.items()}
    save_file(plain, reference / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    quantized = _without_experts(given.config) if plain_experts else given.config
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantized}))
    return folder


def _without_experts(config: dict[str, Any]) -> dict[str, Any]:
    """Return what config.json says of a format where experts are left out of it."""
    if config["quant_method"] == "compressed-tensors":
        return config | {"ignore": [*_IGNORED, "re:.*[.]experts[.].*"]}
    if config["quant_method"] == "gptq":
        return config | {"dynamic": {"-:.*mlp[.](gate|experts).*": {}}}
    return config | {"modules_to_not_convert": ["mlp.experts", "mlp.gate", "lm_head"]}


def _int8(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """Round by row to 8 bits."""
    scale = weight.abs().amax(1, keepdim=True) / 127
    values = (weight / scale).round()
    return {"weight": values.to(torch.int8), "weight_scale": scale}, values * scale


def _int8_static(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    stored, stands_for = _int8(weight)
    return stored | {"input_scale": torch.tensor([8.0 / 127])}, stands_for


def _grouped(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Round by groups of inputs, symmetrically: values and scales [out, groups], and what they stand for."""
    largest = 2 ** (bits - 1) - 1
    groups = weight.unflatten(1, (-1, GROUP))
    scale = (groups.abs().amax(-1) / largest).bfloat16().float()
    values = (groups / scale[..., None]).round().clamp(-largest - 1, largest)
    return values.flatten(1).long(), scale, (values * scale[..., None]).flatten(1)


def _packed(values: torch.Tensor, bits: int, order: tuple[int, ...] = ()) -> torch.Tensor:
    """Put neighbours of the last axis into one int32: [.., n] -> [.., n / (32 / bits)]."""
    many = 32 // bits
    packed = torch.zeros(*values.shape[:-1], values.shape[-1] // many, dtype=torch.int64)
    for place, column in enumerate(order or range(many)):
        packed |= (values[..., column::many] & (2**bits - 1)) << (bits * place)
    return torch.where(packed < 2**31, packed, packed - 2**32).to(torch.int32)


def _pack_quantized(bits: int) -> Callable[[torch.Tensor], tuple[Tensors, torch.Tensor]]:
    def store(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        values, scale, stands_for = _grouped(weight, bits)
        packed = _packed(values + 2 ** (bits - 1), bits)
        shape = torch.tensor(weight.shape, dtype=torch.int64)
        return {"weight_packed": packed, "weight_scale": scale, "weight_shape": shape}, stands_for

    return store


def _gptq(bits: int) -> Callable[[torch.Tensor], tuple[Tensors, torch.Tensor]]:
    def store(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        values, scale, stands_for = _grouped(weight, bits)
        middle = 2 ** (bits - 1)
        zeros = torch.full((scale.shape[1], weight.shape[0]), middle - 1)
        return {
            "qweight": _packed(values + middle, bits).t(),
            "scales": scale.t().half(),
            "qzeros": _packed(zeros, bits),
            "g_idx": torch.arange(weight.shape[1], dtype=torch.int32) // GROUP,
        }, stands_for

    def packed_by_inputs(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        return store(weight)

    return packed_by_inputs


def _awq(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    groups = weight.unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    scale = ((high - low) / 15).half().float()
    zero = (-low / scale).round().clamp(0, 15)
    values = (groups / scale[..., None] + zero[..., None]).round().clamp(0, 15)
    stands_for = ((values - zero[..., None]) * scale[..., None]).flatten(1)
    return {
        "qweight": _packed(values.flatten(1).t().long(), 4, _AWQ_ORDER),
        "scales": scale.t().half(),
        "qzeros": _packed(zero.t().long(), 4, _AWQ_ORDER),
    }, stands_for


def _fp8_row(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    scale = weight.abs().amax(1, keepdim=True) / _FP8_LARGEST
    values = (weight / scale).to(_FP8)
    return {"weight": values, "weight_scale": scale}, values.float() * scale


def _fp8_tensor(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    scale = weight.abs().amax() / _FP8_LARGEST
    values = (weight / scale).to(_FP8)
    return {"weight": values, "weight_scale": scale.reshape(())}, values.float() * scale


def _fp8_block(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    rows, columns = (-(-size // BLOCK) for size in weight.shape)
    padded = torch.zeros(rows * BLOCK, columns * BLOCK)
    padded[: weight.shape[0], : weight.shape[1]] = weight
    blocks = padded.view(rows, BLOCK, columns, BLOCK)
    scale = blocks.abs().amax((1, 3), keepdim=True).clamp(min=1e-6) / _FP8_LARGEST
    values = (blocks / scale).to(_FP8)
    stands_for = (values.float() * scale).view(padded.shape)[: weight.shape[0], : weight.shape[1]]
    stored = values.view(padded.shape)[: weight.shape[0], : weight.shape[1]]
    return {"weight": stored, "weight_scale_inv": scale[:, 0, :, 0]}, stands_for


_IGNORED = ["lm_head", "re:.*mlp.gate$"]


def _compressed(
    kind: str, weights: dict[str, Any], activations: dict[str, Any] | None = None
) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"symmetric": True, "dynamic": False} | weights}
    if activations is not None:
        group["input_activations"] = {"symmetric": True} | activations
    return {
        "quant_method": "compressed-tensors",
        "format": kind,
        "ignore": _IGNORED,
        "config_groups": {"group_0": group},
    }


def _int(bits: int, strategy: str, **more: Any) -> dict[str, Any]:
    return {"num_bits": bits, "type": "int", "strategy": strategy} | more


def _float(strategy: str, **more: Any) -> dict[str, Any]:
    return {"num_bits": 8, "type": "float", "strategy": strategy} | more


_GPTQ = {"quant_method": "gptq", "group_size": GROUP, "desc_act": False, "sym": True}
_BLOCKS = {"weight_block_size": [BLOCK, BLOCK]}
FORMATS = {
    "compressed-tensors W8A8": Format(
        _compressed("int-quantized", _int(8, "channel"), _int(8, "token", dynamic=True)), _int8
    ),
    "compressed-tensors W8A8 static": Format(
        _compressed("int-quantized", _int(8, "channel"), _int(8, "tensor", dynamic=False)), _int8_static
    ),
    "compressed-tensors W4A16": Format(
        _compressed("pack-quantized", _int(4, "group", group_size=GROUP)), _pack_quantized(4)
    ),
    "compressed-tensors W8A16": Format(
        _compressed("pack-quantized", _int(8, "group", group_size=GROUP)), _pack_quantized(8)
    ),
    "compressed-tensors fp8": Format(
        _compressed("float-quantized", _float("channel"), _float("token", dynamic=True)), _fp8_row
    ),
    "fp8": Format({"quant_method": "fp8", "activation_scheme": "dynamic"}, _fp8_tensor),
    "fp8 blocks": Format({"quant_method": "fp8", "activation_scheme": "dynamic"} | _BLOCKS, _fp8_block),
    "AWQ": Format(
        {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}, _awq
    ),
    "GPTQ 4 bits": Format(_GPTQ | {"bits": 4}, _gptq(4)),
    "GPTQ 8 bits": Format(_GPTQ | {"bits": 8}, _gptq(8)),
}
assert all(re.fullmatch(r"[\w -]+", name) for name in FORMATS)
