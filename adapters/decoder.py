"""What the records of dense decoders share, whichever suite they are of, where mszoo's layers compute them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mszoo.registry import Capability

#: What such a model inherits from vLLM's layers, in which its weights lie.
INHERITED = frozenset(
    {
        Capability.LORA,
        Capability.TENSOR_PARALLEL,
        Capability.PIPELINE_PARALLEL,
        Capability.QUANTIZATION,
    }
)
#: The layers that hold several of a checkpoint's modules.
FUSED: Mapping[str, tuple[str, ...]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
#: The same of families without a gated MLP beside their experts.
FUSED_QKV: Mapping[str, tuple[str, ...]] = {"qkv_proj": FUSED["qkv_proj"]}
#: The same of families whose queries, keys and values of low rank come out of projections of their own.
FUSED_GATE_UP: Mapping[str, tuple[str, ...]] = {"gate_up_proj": FUSED["gate_up_proj"]}
#: The same, of families whose checkpoints have them fused too.
FUSED_TOO: Mapping[str, tuple[str, ...]] = {"qkv_proj": ("qkv_proj",), "gate_up_proj": ("gate_up_proj",)}
#: The same where gate and up are fused in the checkpoint too.
FUSED_MLP: Mapping[str, tuple[str, ...]] = {**FUSED, "gate_up_proj": ("gate_up_proj",)}
#: The fields of a tiny config.json beside the architecture's own; vLLM's CPU attention has this head size, and
#: some of Hugging Face's default padding tokens are beyond this vocabulary.
TINY: Mapping[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
#: The fields of a tiny config.json with a latent cache: vLLM's attention on one takes these sizes.
LATENT: Mapping[str, Any] = {
    "num_key_value_heads": 4,
    "head_dim": 64,
    "q_lora_rank": 48,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 64,
    "v_head_dim": 64,
}
