"""The native models without experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mszoo.adapters.decoder import FUSED, FUSED_MLP, FUSED_TOO
from mszoo.adapters.native.record import decoder
from mszoo.registry import Capability

#: An MLP without a gate has one module for each projection.
_UNGATED: Mapping[str, tuple[str, ...]] = {"qkv_proj": FUSED["qkv_proj"]}
#: Queries, keys and values of low rank come out of projections of their own.
_GATE_UP: Mapping[str, tuple[str, ...]] = {"gate_up_proj": FUSED["gate_up_proj"]}
#: Of models that vLLM refuses in float16.
_NO_HALF = ("float32", "bfloat16")
#: What vLLM's layers can't take of checkpoints with queries, keys and values in an order of their own, and with
#: transposed weights.
_ROWS = frozenset({Capability.LORA})
_CONV1D = _ROWS | {Capability.QUANTIZATION}
#: The fields of GPT-2's relatives, which have no head size of their own.
_GPT: dict[str, Any] = {"hidden_size": 128, "n_inner": 192}
_SLIDES: dict[str, Any] = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
_BIASED: dict[str, Any] = {"attention_bias": True, "mlp_bias": True}
_CAPPED: dict[str, Any] = {
    "query_pre_attn_scalar": 16,
    "attn_logit_softcapping": 5.0,
    "final_logit_softcapping": 3.0,
}
#: A head's key has 96 values, 32 of which turn, and its value 32.
_MINICPM3: dict[str, Any] = {
    "num_key_value_heads": 4,
    "head_dim": 32,
    "hidden_size": 128,
    "q_lora_rank": 48,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "dim_model_base": 32,
    "tie_word_embeddings": False,
}
_MULTIPLIED: dict[str, Any] = {
    "attention_multiplier": 0.1,
    "embedding_multiplier": 6.0,
    "logits_scaling": 4.0,
    "residual_multiplier": 0.5,
}

RECORDS = (
    decoder("ArceeForCausalLM", "nemotron", _UNGATED, model_type="arcee", **_BIASED),
    decoder("CodeGenForCausalLM", "gptj", {}, lacks=_ROWS, model_type="codegen", **_GPT, rotary_dim=16),
    decoder("Cohere2ForCausalLM", "cohere", model_type="cohere2", hidden_size=128, **_SLIDES),
    decoder("CohereForCausalLM", "cohere", model_type="cohere", logit_scale=0.25, attention_bias=True),
    decoder("CwmForCausalLM", "llama", model_type="cwm", mlp_bias=True, **_SLIDES),
    decoder("Ernie4_5ForCausalLM", "ernie4_5", model_type="ernie4_5", use_bias=True),
    decoder("Exaone4ForCausalLM", "exaone4", model_type="exaone4", **_SLIDES),
    decoder("GPT2LMHeadModel", "gpt2", {}, lacks=_CONV1D, model_type="gpt2", **_GPT),
    decoder("GPTBigCodeForCausalLM", "gpt2", {"c_attn": ("c_attn",)}, model_type="gpt_bigcode", **_GPT),
    decoder("GPTJForCausalLM", "gptj", _UNGATED, model_type="gptj", **_GPT, rotary_dim=16),
    decoder("GPTNeoXForCausalLM", "gpt_neox", {}, lacks=_ROWS, model_type="gpt_neox", hidden_size=128),
    decoder("Gemma2ForCausalLM", "gemma", dtypes=_NO_HALF, model_type="gemma2", **_SLIDES, **_CAPPED),
    decoder("Gemma3ForCausalLM", "gemma", dtypes=_NO_HALF, model_type="gemma3_text", **_SLIDES, **_CAPPED),
    decoder("GemmaForCausalLM", "gemma", model_type="gemma"),
    decoder("Glm4ForCausalLM", "glm", FUSED_MLP, dtypes=_NO_HALF, model_type="glm4"),
    decoder("GlmForCausalLM", "glm", FUSED_MLP, model_type="glm"),
    decoder("GraniteForCausalLM", "granite", model_type="granite", **_BIASED, **_MULTIPLIED),
    decoder("HeliumForCausalLM", "helium", model_type="helium", hidden_size=128),
    decoder("HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense", model_type="hunyuan_v1_dense"),
    decoder("Jais2ForCausalLM", "nemotron", _UNGATED, model_type="jais2"),
    decoder("LlamaForCausalLM", "llama", model_type="llama"),
    decoder("MiniCPM3ForCausalLM", "minicpm", _GATE_UP, model_type="minicpm3", **_MINICPM3),
    decoder("MinistralForCausalLM", "mistral", model_type="ministral", **_SLIDES),
    decoder("MistralForCausalLM", "mistral", model_type="mistral"),
    decoder("NemotronForCausalLM", "nemotron", _UNGATED, model_type="nemotron", **_BIASED),
    decoder("OPTForCausalLM", "opt", _UNGATED, model_type="opt", hidden_size=128, ffn_dim=192),
    decoder("Olmo2ForCausalLM", "olmo", model_type="olmo2"),
    decoder("Olmo3ForCausalLM", "olmo", model_type="olmo3", **_SLIDES),
    decoder("OlmoForCausalLM", "olmo", model_type="olmo", clip_qkv=0.5),
    decoder("PersimmonForCausalLM", "gpt_neox", {}, lacks=_ROWS, model_type="persimmon", hidden_size=128),
    decoder("Phi3ForCausalLM", "phi3", FUSED_TOO, model_type="phi3"),
    decoder("PhiForCausalLM", "phi", _UNGATED, model_type="phi"),
    decoder("Qwen2ForCausalLM", "qwen2", model_type="qwen2"),
    decoder("Qwen3ForCausalLM", "qwen3", model_type="qwen3"),
    decoder("SeedOssForCausalLM", "seed_oss", model_type="seed_oss", attention_out_bias=False),
    decoder(
        "SmolLM3ForCausalLM",
        "smollm3",
        model_type="smollm3",
        use_sliding_window=True,
        no_rope_layers=[0, 1],
        **_SLIDES,
    ),
    decoder("StableLmForCausalLM", "stablelm", model_type="stablelm", hidden_size=128, use_qkv_bias=True),
    decoder("Starcoder2ForCausalLM", "starcoder2", _UNGATED, model_type="starcoder2", sliding_window=16),
    decoder("VaultGemmaForCausalLM", "gemma", model_type="vaultgemma", **_SLIDES, **_CAPPED),
)
