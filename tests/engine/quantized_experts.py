"""A quantization format of a plugin's: experts of int8 with a scale for each row, multiplied by torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from safetensors.torch import load_file, save_file

NAME = "mszoo_test_int8_experts"


def write(source: Path, folder: Path, reference: Path) -> Path:
    """Write a checkpoint again in the format, and beside it the weights that it then stands for."""
    shutil.copytree(source, folder)
    shutil.copytree(source, reference)
    plain = load_file(source / "model.safetensors")
    stored = dict(plain)
    for name, weight in plain.items():
        if ".experts." in name:
            scale = weight.abs().amax(1, keepdim=True) / 127
            values = (weight / scale).round()
            stored |= {name: values.to(torch.int8), f"{name}_scale": scale}
            plain[name] = values * scale
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    save_file(plain, reference / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": NAME}}))
    return folder


def register() -> None:
    """Tell vLLM of the format, as a plugin does; once is enough."""
    from vllm.model_executor.layers.fused_moe import FusedMoEMethodBase, RoutedExperts
    from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
    from vllm.model_executor.layers.quantization import (
        QUANTIZATION_METHODS,
        register_quantization_config,
    )
    from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
    from vllm.model_executor.utils import set_weight_attrs

    if NAME in QUANTIZATION_METHODS:
        return

    class Method(FusedMoEMethodBase):
        def create_weights(
            self,
            layer: torch.nn.Module,
            num_experts: int,
            hidden_size: int,
            intermediate_size_per_partition: int,
            params_dtype: torch.dtype,
            **attributes: Any,
        ) -> None:
            shapes = {
                "w13": (num_experts, 2 * intermediate_size_per_partition, hidden_size),
                "w2": (num_experts, hidden_size, intermediate_size_per_partition),
            }
            for part, shape in shapes.items():
                weight = torch.zeros(shape, dtype=torch.int8)
                scale = torch.full((*shape[:2], 1), float("nan"))
                for name, value, more in (
                    ("weight", weight, {}),
                    ("weight_scale", scale, {"quant_method": "channel"}),
                ):
                    parameter = torch.nn.Parameter(value, requires_grad=False)
                    layer.register_parameter(f"{part}_{name}", parameter)
                    set_weight_attrs(parameter, attributes | more)

        def get_fused_moe_quant_config(self, layer: torch.nn.Module) -> None:
            return None

        def apply(
            self,
            layer: RoutedExperts,
            x: torch.Tensor,
            topk_weights: torch.Tensor,
            topk_ids: torch.Tensor,
            **_: Any,
        ) -> torch.Tensor:
            w13, w2 = layer.w13_weight * layer.w13_weight_scale, layer.w2_weight * layer.w2_weight_scale
            output = torch.zeros_like(x)
            for token, (weights, experts) in enumerate(zip(topk_weights, topk_ids.tolist(), strict=True)):
                for weight, expert in zip(weights, experts, strict=True):
                    gate, up = (w13[expert] @ x[token]).chunk(2)
                    output[token] += weight * (w2[expert] @ (torch.nn.functional.silu(gate) * up))
            return output

    class Config(QuantizationConfig):
        def get_name(self) -> str:
            return NAME

        def get_supported_act_dtypes(self) -> list[torch.dtype]:
            return [torch.float32]

        @classmethod
        def get_min_capability(cls) -> int:
            return 0

        @staticmethod
        def get_config_filenames() -> list[str]:
            return []

        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Config:
            return cls()

        def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> Any:
            if isinstance(layer, RoutedExperts):
                return Method(layer.moe_config)
            return UnquantizedLinearMethod() if isinstance(layer, LinearBase) else None

    register_quantization_config(NAME)(Config)
