"""The ``mindformers`` suite: the inference models of MindSpore Transformers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from mszoo.adapters.described import decoders
from mszoo.registry import Capability, LayerAdapter, ModelAdapter, Suite, hookimpl

_SUITE = "mindformers"
_HERE = "mszoo.adapters.mindformers"
_INFERENCE = "mindformers.parallel_core.inference.transformer"
_CELLS = {
    "transformer_layer:TransformerLayer": "layer:TransformerLayer",
    "norm:RMSNorm": "layer:Norm",
}
_WITH_LATENT_CACHE = "DeepseekV3ForCausalLM"


@hookimpl
def mszoo_suite() -> Suite:
    """Name the suite."""
    return Suite(
        _SUITE,
        description="MindSpore Transformers",
        requires=("mindformers>=1.9,!=2.0.0,<2.2", "deprecated", "wrapt"),
        install="pip install --no-deps mindformers==2.1.0 deprecated wrapt",
    )


@hookimpl
def mszoo_model_adapters() -> Iterable[ModelAdapter]:
    """Give the suite's inference models: with mszoo's layers on CPU, as they are on NPU where that will do."""
    on_cpu = _on_cpu()
    return [*on_cpu, *map(_on_npu, on_cpu)]


def _on_npu(on_cpu: ModelAdapter) -> ModelAdapter:
    """Return the record of a model on NPU.

    Its own network has no part of vLLM's layers; with these in its cells it has ranks, and adapters but for
    experts; neither with a latent cache, which mszoo's layers don't have there.
    """
    latent, experts = on_cpu.architecture == _WITH_LATENT_CACHE, "Moe" in on_cpu.architecture
    has = {Capability.LORA: not (latent or experts), Capability.TENSOR_PARALLEL: not latent}
    in_layers = frozenset(capability for capability, so in has.items() if so)
    return replace(
        on_cpu,
        model=f"{_HERE}.on_npu:network",
        capabilities=on_cpu.capabilities & in_layers,
        devices=("npu",),
        dtypes=tuple(item for item in on_cpu.dtypes if item != "float32"),  # no attention of Ascend takes it
    )


def _on_cpu() -> list[ModelAdapter]:
    # Of two groups: the suite scores a group by its 4 // 2 best experts.
    experts: dict[str, Any] = {"num_experts_per_tok": 4}
    return [
        _adapter("Qwen2ForCausalLM"),
        _adapter("Qwen3ForCausalLM"),
        _adapter("TeleChat3ForCausalLM", "LlamaForCausalLM"),  # vLLM reads its configs as Llama's
        _adapter("Qwen3MoeForCausalLM", decoder_sparse_step=1),
        _adapter("Glm4ForCausalLM"),
        _adapter("Glm4MoeForCausalLM", **experts),
        _adapter("DeepseekV3ForCausalLM", **experts),
        _adapter("TeleChat2ForCausalLM"),
    ]


@hookimpl
def mszoo_layer_adapters() -> Iterable[LayerAdapter]:
    """Give what takes the place of the suite's cells: on CPU, and on NPU where vLLM's layers are needed."""
    return [
        LayerAdapter(f"{_SUITE}:{_INFERENCE}.{cell}", f"{_HERE}.{name}", devices=("cpu", "npu"))
        for cell, name in _CELLS.items()
    ]


def _adapter(architecture: str, described_as: str = "", **config: Any) -> ModelAdapter:
    """Return the record of a model on CPU, whose layers are those of a native one.

    Args:
        architecture: the name in config.json.
        described_as: the native model's, where it is another.
        config: what the suite needs otherwise of the native model's tiny config.json.
    """
    native = decoders()[described_as or architecture]
    return replace(
        native,
        architecture=architecture,
        model=f"{_HERE}.model:SuiteModel",
        devices=("cpu",),
        example_config={**native.example_config, **config} | {"architectures": [architecture]},
    )
