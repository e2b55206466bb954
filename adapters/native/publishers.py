"""Tiny configs of models whose code only their publishers have, with nothing in them but what these give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mszoo.adapters.decoder import FUSED
from mszoo.adapters.native.record import decoder
from mszoo.registry import Capability, ModelAdapter

#: What most have; their config classes come with their checkpoints.
COMMON: Mapping[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
#: Sizes beside those of COMMON, which its configs call otherwise.
EXAONE: Mapping[str, Any] = {
    "activation_function": "silu",
    "head_dim": 64,
    "layer_norm_epsilon": 1e-5,
    "num_key_value_heads": 2,
    "num_layers": 2,
    "rope_theta": 10000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 64,
    },
}
INTERNLM3: Mapping[str, Any] = {"head_dim": 64, "num_key_value_heads": 2, "qkv_bias": True, "bias": True}
MINICPM: Mapping[str, Any] = {
    "num_key_value_heads": 2,
    "scale_emb": 12,
    "scale_depth": 1.4,
    "dim_model_base": 32,
    "rope_theta": 10000.0,
    "rope_scaling": {
        "rope_type": "longrope",
        "short_factor": [1.0 + index / 16 for index in range(16)],
        "long_factor": [2.0 + index for index in range(16)],
        "original_max_position_embeddings": 512,
    },
}
#: vLLM has a config class for it.
CHATGLM: Mapping[str, Any] = {
    "model_type": "chatglm",
    "padded_vocab_size": 256,
    "hidden_size": 128,
    "ffn_hidden_size": 192,
    "kv_channels": 32,
    "num_layers": 2,
    "num_attention_heads": 4,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "seq_length": 512,
    "layernorm_epsilon": 1e-5,
    "add_qkv_bias": True,
    "original_rope": True,
    "rope_ratio": 50,
    "tie_word_embeddings": False,
}
TELECHAT2: Mapping[str, Any] = {
    "model_type": "telechat",
    "auto_map": {"AutoConfig": "configuration_telechat2.Config"},
    "vocab_size": 256,
    "hidden_size": 128,
    "ffn_hidden_size": 192,
    "n_layer": 2,
    "n_head": 4,
    "num_key_value_heads": 2,
    "layer_norm_epsilon": 1e-5,
    "base_seqlen": 512,
    "training_seqlen": 512,
    "seq_length": 512,
    "tie_word_embeddings": False,
}

#: What vLLM's layers can't take of checkpoints with queries, keys and values in an order of their own.
_ROWS = frozenset({Capability.LORA})
_W_PACK = {"W_pack": ("W_pack",), "gate_up_proj": FUSED["gate_up_proj"]}
_C_FC = {"qkv_proj": FUSED["qkv_proj"], "gate_up_proj": ("c_fc_0", "c_fc_1")}
_W1_W3 = {"gate_up_proj": ("w1", "w3")}
_GATE_UP = {"gate_up_proj": FUSED["gate_up_proj"]}


def _publishers(
    architecture: str,
    module: str,
    fused: Mapping[str, tuple[str, ...]] = FUSED,
    lacks: frozenset[Capability] = frozenset(),
    **config: Any,
) -> ModelAdapter:
    """Return the record of a decoder whose config class comes with its checkpoints (``--trust-remote-code``)."""
    config |= {"model_type": module, "auto_map": {"AutoConfig": f"configuration_{module}.Config"}}
    return decoder(architecture, module, fused, lacks=lacks, common=COMMON, **config)


def _chatglm(architecture: str) -> ModelAdapter:
    """Return the record of ChatGLM, whose config class vLLM has."""
    fused = {name: (name,) for name in ("query_key_value", "dense_h_to_4h")}
    return decoder(architecture, "chatglm", fused, common={}, **CHATGLM)


RECORDS = (
    _publishers("BaiChuanForCausalLM", "baichuan", _W_PACK),
    _publishers("BaichuanForCausalLM", "baichuan", _W_PACK),
    _chatglm("ChatGLMForConditionalGeneration"),
    _chatglm("ChatGLMModel"),
    _publishers("ExaoneForCausalLM", "exaone", _C_FC, **EXAONE),
    _publishers("InternLM2ForCausalLM", "internlm", _W1_W3, _ROWS, num_key_value_heads=2, bias=True),
    _publishers("InternLM3ForCausalLM", "internlm", **INTERNLM3),
    _publishers("MiniCPMForCausalLM", "minicpm", **MINICPM),
    _publishers("OrionForCausalLM", "orion"),
    decoder(
        "TeleChat2ForCausalLM",
        "telechat2",
        _GATE_UP,
        lacks=_ROWS | {Capability.QUANTIZATION},
        common={},
        **TELECHAT2,
    ),
    _publishers("XverseForCausalLM", "xverse"),
)
