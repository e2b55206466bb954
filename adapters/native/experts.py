"""The native models with experts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mszoo.adapters.decoder import FUSED_GATE_UP, FUSED_QKV, LATENT
from mszoo.adapters.native.record import decoder
from mszoo.registry import Capability

#: What models with experts don't inherit whose quantized checkpoints nobody has compared with what they stand for.
_PLAIN = frozenset({Capability.QUANTIZATION})
_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 3, "moe_intermediate_size": 32}
#: Routing as DeepSeek-V3 has it.
GROUPED: dict[str, Any] = {
    **_EXPERTS,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
}
_YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
}
_OF_GPT_OSS: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
}
#: Phi-MoE's, with a scale of its own.
_LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 512,
    "short_factor": [1.0 + pair / 16 for pair in range(16)],
    "long_factor": [2.0] * 16,
    "short_mscale": 1.2,
    "long_mscale": 1.3,
}
_GRANITE: dict[str, Any] = {
    "num_local_experts": 8,
    "num_experts_per_tok": 3,
    "attention_multiplier": 0.1,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "logits_scaling": 2.0,
}
#: Of families whose heads are as many as make up the hidden size.
_HEADS_OF_32: dict[str, Any] = {"hidden_size": 128, "head_dim": 32}

RECORDS = (
    decoder(
        "DeepseekV2ForCausalLM",
        "deepseek",
        FUSED_GATE_UP,
        lacks=_PLAIN,
        model_type="deepseek_v2",
        topk_method="group_limited_greedy",
        first_k_dense_replace=1,
        rope_parameters=_YARN,
        **{**GROUPED, **LATENT},
    ),
    decoder(
        "DeepseekV3ForCausalLM",
        "deepseek",
        FUSED_GATE_UP,
        lacks=_PLAIN,
        model_type="deepseek_v3",
        first_k_dense_replace=1,
        rope_parameters=_YARN,
        **{**GROUPED, **LATENT},
    ),
    decoder(
        "Dots1ForCausalLM",
        "dots1",
        lacks=_PLAIN,
        model_type="dots1",
        first_k_dense_replace=1,
        sliding_window=16,
        max_window_layers=1,
        **GROUPED,
    ),
    decoder(
        "Ernie4_5_MoeForCausalLM",
        "ernie_moe",
        model_type="ernie4_5_moe",
        moe_num_experts=8,
        moe_num_shared_experts=2,
        moe_k=3,
        moe_intermediate_size=32,
    ),
    decoder(
        "ExaoneMoeForCausalLM",
        "exaone_moe",
        lacks=_PLAIN,
        model_type="exaone_moe",
        num_experts=8,
        num_shared_experts=1,
        n_group=4,
        topk_group=2,
        sliding_window=16,
        sliding_window_pattern=2,
        **_EXPERTS,
    ),
    decoder(
        "FlexOlmoForCausalLM",
        "olmoe",
        FUSED_QKV,
        lacks=_PLAIN,
        model_type="flex_olmo",
        num_experts=8,
        num_experts_per_tok=3,
    ),
    replace(
        decoder(
            "GptOssForCausalLM",
            "gpt_oss",
            FUSED_QKV,
            dtypes=("float32", "bfloat16"),  # vLLM's attention takes sinks in no other
            lacks=frozenset({Capability.LORA}),
            model_type="gpt_oss",
            num_local_experts=8,
            num_experts_per_tok=3,
            sliding_window=16,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters=_OF_GPT_OSS,
        ),
        devices=("cpu",),
    ),
    decoder(
        "Glm4MoeForCausalLM",
        "glm_moe",
        lacks=_PLAIN,
        model_type="glm4_moe",
        attention_bias=True,
        use_qk_norm=True,
        **GROUPED,
    ),
    decoder(
        "Glm4MoeLiteForCausalLM",
        "glm_moe",
        FUSED_GATE_UP,
        lacks=_PLAIN,
        model_type="glm4_moe_lite",
        **{**GROUPED, **LATENT},
    ),
    decoder(
        "GraniteMoeForCausalLM",
        "granite_moe",
        FUSED_QKV,
        lacks=_PLAIN,
        model_type="granitemoe",
        **_GRANITE,
    ),
    decoder(
        "GraniteMoeSharedForCausalLM",
        "granite_moe",
        {**FUSED_QKV, "input_linear": ("input_linear",)},
        model_type="granitemoeshared",
        shared_intermediate_size=64,
        **_GRANITE,
    ),
    decoder(
        "HunYuanMoEV1ForCausalLM",
        "hunyuan_moe",
        model_type="hunyuan_v1_moe",
        num_experts=8,
        moe_topk=[3, 2],
    ),
    decoder(
        "MiniMaxM2ForCausalLM",
        "minimax",
        FUSED_QKV,
        lacks=_PLAIN,
        model_type="minimax_m2",
        num_local_experts=8,
        num_experts_per_tok=3,
        rotary_dim=16,
    ),
    decoder(
        "MixtralForCausalLM",
        "mixtral",
        FUSED_QKV,
        model_type="mixtral",
        num_local_experts=8,
        num_experts_per_tok=2,
        sliding_window=16,
    ),
    decoder(
        "OlmoeForCausalLM",
        "olmoe",
        FUSED_QKV,
        model_type="olmoe",
        num_experts=8,
        num_experts_per_tok=3,
        clip_qkv=0.5,
        **_HEADS_OF_32,
    ),
    decoder(
        "PhiMoEForCausalLM",
        "phimoe",
        FUSED_QKV,
        lacks=_PLAIN | {Capability.LORA},
        model_type="phimoe",
        num_local_experts=8,
        num_experts_per_tok=2,
        router_jitter_noise=0.3,
        rope_parameters=_LONGROPE,
        attention_bias=True,
        lm_head_bias=True,
    ),
    decoder(
        "Qwen2MoeForCausalLM",
        "qwen_moe",
        model_type="qwen2_moe",
        num_experts=8,
        mlp_only_layers=[0],
        shared_expert_intermediate_size=96,
        **_EXPERTS,
    ),
    decoder(
        "Qwen3MoeForCausalLM",
        "qwen_moe",
        model_type="qwen3_moe",
        num_experts=8,
        norm_topk_prob=True,
        decoder_sparse_step=2,
        **_EXPERTS,
    ),
    decoder(
        "SolarOpenForCausalLM",
        "solar_open",
        lacks=_PLAIN,
        model_type="solar_open",
        attention_bias=True,
        **GROUPED,
    ),
)
