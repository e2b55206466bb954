"""The ``mindformers`` suite: the inference models of MindSpore Transformers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from mszoo.adapters.decoder import FUSED, FUSED_MLP, INHERITED, LATENT, TINY
from mszoo.registry import Capability, LayerAdapter, ModelAdapter, Suite, hookimpl
from mszoo.registry.records import DTYPES

_SUITE = "mindformers"
_HERE = "mszoo.adapters.mindformers"
_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 4, "moe_intermediate_size": 32, "norm_topk_prob": True}
_GROUPED_EXPERTS: dict[str, Any] = _EXPERTS | {
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
}
_LATENT: dict[str, Any] = {**LATENT, "topk_method": "noaux_tc"}
# Its config class comes with its checkpoints (--trust-remote-code).
_TELECHAT2: dict[str, Any] = {
    "model_type": "telechat",
    "auto_map": {"AutoConfig": "configuration_telechat2.Telechat2Config"},
    "vocab_size": 256,
    "hidden_size": 128,  # heads of 32
    "n_layer": 2,
    "n_head": 4,
    "num_key_value_heads": 2,
    "ffn_hidden_size": 128,
    "layer_norm_epsilon": 1e-5,
}
_RANKS = frozenset({Capability.TENSOR_PARALLEL})
# vLLM serves no GLM-4 in float16, which is too narrow for it.
_NO_HALF = ("float32", "bfloat16")
_INFERENCE = "mindformers.parallel_core.inference.transformer"
_CELLS = {
    "transformer_layer:TransformerLayer": "layer:TransformerLayer",
    "norm:RMSNorm": "layer:Norm",
}


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
    """Give the suite's inference models: with mszoo's layers on CPU, as they are on NPU."""
    on_cpu = _on_cpu()
    return [*on_cpu, *map(_as_it_is, on_cpu)]


def _as_it_is(on_cpu: ModelAdapter) -> ModelAdapter:
    """Return the record of the suite's own network, which vLLM's layers have no part in."""
    return replace(
        on_cpu,
        model=f"{_HERE}.ascend:OwnNetwork",
        capabilities=frozenset(),
        devices=("npu",),
        dtypes=tuple(item for item in on_cpu.dtypes if item != "float32"),  # no attention of Ascend takes it
    )


def _on_cpu() -> list[ModelAdapter]:
    return [
        _adapter("Qwen2ForCausalLM", {"model_type": "qwen2"}, INHERITED),
        _adapter("Qwen3ForCausalLM", {"model_type": "qwen3"}, INHERITED),
        # vLLM reads its configs as Llama's.
        _adapter("TeleChat3ForCausalLM", {"model_type": "llama"}, INHERITED),
        _adapter("Qwen3MoeForCausalLM", {"model_type": "qwen3_moe", "num_experts": 8} | _EXPERTS, _RANKS),
        _adapter("Glm4ForCausalLM", {"model_type": "glm4"}, INHERITED, dtypes=_NO_HALF, fused=FUSED_MLP),
        _adapter(
            "Glm4MoeForCausalLM", {"model_type": "glm4_moe", "use_qk_norm": True} | _GROUPED_EXPERTS, _RANKS
        ),
        _adapter("DeepseekV3ForCausalLM", {"model_type": "deepseek_v3"} | _GROUPED_EXPERTS | _LATENT, _RANKS),
        _adapter("TeleChat2ForCausalLM", _TELECHAT2, _RANKS, common={}),
    ]


@hookimpl
def mszoo_layer_adapters() -> Iterable[LayerAdapter]:
    """Give what takes the place of the suite's cells on CPU."""
    return [
        LayerAdapter(f"{_SUITE}:{_INFERENCE}.{cell}", f"{_HERE}.{name}", devices=("cpu",))
        for cell, name in _CELLS.items()
    ]


def _adapter(
    architecture: str,
    config: Mapping[str, Any],
    capabilities: frozenset[Capability],
    *,
    dtypes: tuple[str, ...] = DTYPES,
    fused: Mapping[str, tuple[str, ...]] = FUSED,
    common: Mapping[str, Any] = TINY,
) -> ModelAdapter:
    return ModelAdapter(
        architecture,
        f"{_HERE}.model:SuiteModel",
        capabilities=capabilities,
        devices=("cpu",),
        dtypes=dtypes,
        packed_modules_mapping=fused,
        example_config={**common, **config} | {"architectures": [architecture]},
    )
