"""The ``native`` suite: mszoo's own MindSpore models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mszoo.adapters.decoder import FUSED, FUSED_MLP, FUSED_TOO, INHERITED, TINY
from mszoo.registry import Capability, ModelAdapter, Suite, hookimpl

#: An MLP without a gate has one module for each projection.
_UNGATED: Mapping[str, tuple[str, ...]] = {"qkv_proj": FUSED["qkv_proj"]}
#: Of models that vLLM refuses in float16.
_NO_HALF = ("float32", "bfloat16")
#: Heads that are normed together can't be shared out.
_ONE_RANK = frozenset({Capability.TENSOR_PARALLEL})


@hookimpl
def mszoo_suite() -> Suite:
    """Name the suite."""
    return Suite("native", description="mszoo's own MindSpore models")


@hookimpl
def mszoo_model_adapters() -> Iterable[ModelAdapter]:
    """Give the native models."""
    slides: dict[str, Any] = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
    biased: dict[str, Any] = {"attention_bias": True, "mlp_bias": True}
    capped: dict[str, Any] = {
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
    }
    multiplied: dict[str, Any] = {
        "attention_multiplier": 0.1,
        "embedding_multiplier": 6.0,
        "logits_scaling": 4.0,
        "residual_multiplier": 0.5,
    }
    return [
        _decoder("ArceeForCausalLM", "nemotron", _UNGATED, model_type="arcee", **biased),
        _decoder("Cohere2ForCausalLM", "cohere", model_type="cohere2", hidden_size=128, **slides),
        _decoder("CohereForCausalLM", "cohere", model_type="cohere", logit_scale=0.25, attention_bias=True),
        _decoder("CwmForCausalLM", "llama", model_type="cwm", mlp_bias=True, **slides),
        _decoder("Ernie4_5ForCausalLM", "ernie4_5", model_type="ernie4_5", use_bias=True),
        _decoder("Exaone4ForCausalLM", "exaone4", model_type="exaone4", **slides),
        _decoder("Gemma2ForCausalLM", "gemma", dtypes=_NO_HALF, model_type="gemma2", **slides, **capped),
        _decoder("Gemma3ForCausalLM", "gemma", dtypes=_NO_HALF, model_type="gemma3_text", **slides, **capped),
        _decoder("GemmaForCausalLM", "gemma", model_type="gemma"),
        _decoder("Glm4ForCausalLM", "glm", FUSED_MLP, dtypes=_NO_HALF, model_type="glm4"),
        _decoder("GlmForCausalLM", "glm", FUSED_MLP, model_type="glm"),
        _decoder("GraniteForCausalLM", "granite", model_type="granite", **biased, **multiplied),
        _decoder("HeliumForCausalLM", "helium", model_type="helium", hidden_size=128),
        _decoder("HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense", model_type="hunyuan_v1_dense"),
        _decoder("Jais2ForCausalLM", "nemotron", _UNGATED, model_type="jais2"),
        _decoder("LlamaForCausalLM", "llama", model_type="llama"),
        _decoder("MinistralForCausalLM", "mistral", model_type="ministral", **slides),
        _decoder("MistralForCausalLM", "mistral", model_type="mistral"),
        _decoder("NemotronForCausalLM", "nemotron", _UNGATED, model_type="nemotron", **biased),
        _decoder("Olmo2ForCausalLM", "olmo", lacks=_ONE_RANK, model_type="olmo2"),
        _decoder("Olmo3ForCausalLM", "olmo", lacks=_ONE_RANK, model_type="olmo3", **slides),
        _decoder("OlmoForCausalLM", "olmo", model_type="olmo", clip_qkv=0.5),
        _decoder("Phi3ForCausalLM", "phi3", FUSED_TOO, model_type="phi3"),
        _decoder("Qwen2ForCausalLM", "qwen2", model_type="qwen2"),
        _decoder("Qwen3ForCausalLM", "qwen3", model_type="qwen3"),
        _decoder("SeedOssForCausalLM", "seed_oss", model_type="seed_oss", attention_out_bias=False),
        _decoder(
            "SmolLM3ForCausalLM",
            "smollm3",
            model_type="smollm3",
            use_sliding_window=True,
            no_rope_layers=[0, 1],
            **slides,
        ),
        _decoder("VaultGemmaForCausalLM", "gemma", model_type="vaultgemma", **slides, **capped),
    ]


def _decoder(
    architecture: str,
    module: str,
    fused: Mapping[str, tuple[str, ...]] = FUSED,
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16"),
    lacks: frozenset[Capability] = frozenset(),
    **config: Any,
) -> ModelAdapter:
    """Return the record of a decoder.

    Args:
        architecture: the name in config.json, and of its class.
        module: of mszoo.models, that has the class.
        fused: what vLLM's fused layers hold of its checkpoints' modules.
        dtypes: what it computes in.
        lacks: what it doesn't inherit from vLLM's layers.
        config: the fields of a tiny config.json beside those of ``TINY``.
    """
    return ModelAdapter(
        architecture,
        f"mszoo.models.{module}:{architecture}",
        capabilities=INHERITED - lacks,
        dtypes=dtypes,
        packed_modules_mapping=fused,
        example_config={**TINY, **config} | {"architectures": [architecture]},
    )
