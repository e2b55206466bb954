"""Which types the common fields of configs have: code elsewhere multiplies and compares them unasked."""

from __future__ import annotations

from typing import Any

#: Sizes and counts: at least 1 wherever a model has them.
_SIZES = frozenset(
    {
        "base_seqlen",
        "depth",
        "embedding_size",
        "ffn_dim",
        "ffn_hidden_size",
        "head_dim",
        "hidden_size",
        "image_size",
        "inner_group_num",
        "intermediate_size",
        "kv_channels",
        "kv_lora_rank",
        "max_position_embeddings",
        "max_trained_positions",
        "moe_intermediate_size",
        "moe_num_experts",
        "multi_query_group_num",
        "n_embd",
        "n_group",
        "n_head",
        "n_inner",
        "n_layer",
        "n_positions",
        "n_routed_experts",
        "num_attention_heads",
        "num_channels",
        "num_experts",
        "num_experts_per_tok",
        "num_hidden_groups",
        "num_hidden_layers",
        "num_key_value_heads",
        "num_layers",
        "num_local_experts",
        "padded_vocab_size",
        "patch_size",
        "q_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "relative_attention_num_buckets",
        "rotary_dim",
        "seq_length",
        "sliding_window",
        "task_type_vocab_size",
        "topk_group",
        "training_seqlen",
        "type_vocab_size",
        "v_head_dim",
        "vocab_size",
        "word_embed_proj_dim",
    }
)
#: Sizes that may be 0: an encoder without token types (GTE).
_FROM_0 = frozenset({"type_vocab_size"})
#: How many layers there are, each of which is described by itself.
_LAYERS = frozenset(
    {"depth", "inner_group_num", "n_layer", "num_hidden_groups", "num_hidden_layers", "num_layers"}
)
#: No model comes near: what is more is a mistake, and takes all memory or is too large for a float.
MOST, MOST_LAYERS = 2**31 - 1, 2**14
#: Of a number's size: its square is still one in 64 bits, and itself in 32.
_MOST_NUMBER = 1e30
#: Numbers, and whether they must be more than 0.
_NUMBERS = {
    "attention_multiplier": False,
    "attn_logit_softcapping": True,
    "clip_qkv": True,
    "dim_model_base": True,
    "embedding_multiplier": False,
    "final_logit_softcapping": True,
    "first_k_dense_replace": False,
    "layer_norm_eps": False,
    "layer_norm_epsilon": False,
    "layernorm_epsilon": False,
    "logit_scale": True,
    "logits_scaling": True,
    "n_shared_experts": False,
    "norm_eps": False,
    "norm_epsilon": False,
    "partial_rotary_factor": True,
    "query_pre_attn_scalar": True,
    "residual_multiplier": False,
    "rms_norm_eps": False,
    "rope_ratio": True,
    "rope_theta": True,
    "routed_scaling_factor": False,
    "scale_depth": True,
    "scale_emb": True,
}
_NAMES = frozenset({"activation_function", "hidden_act", "hidden_activation"})

#: All fields whose types are known.
TYPED = (*sorted(_SIZES), *_NUMBERS, *sorted(_NAMES))


def wrong_type(name: str, own: str, value: Any) -> str:
    """Return what a field must be; "" where it is that, or nothing is known of it.

    Args:
        name: the field's common name.
        own: its name in the config.
        value: not None.
    """
    names = {name, own}
    if names & _SIZES:
        # Of each layer, where the field's own name is another: Hunyuan's moe_topk.
        values = value if isinstance(value, list) and value and own != name else [value]
        least = 0 if names & _FROM_0 else 1
        if not all(_is_size(one, least) for one in values):
            return f"a whole number above {least - 1}"
        most = min(filter(None, map(most_of, names)))
        return "" if all(one <= most for one in values) else f"{most} at most"
    if names & _NUMBERS.keys():
        above = any(_NUMBERS.get(one) for one in names)
        if is_number(value) and (value > 0 or not above):
            return ""
        return "a number above 0" if above else "a number"
    if names & _NAMES and not isinstance(value, str):
        return "a name"
    return ""


def most_of(name: str) -> int | None:
    """Return the largest value that a size or count may have in any model; None for a field that is neither."""
    if name not in _SIZES:
        return None
    return MOST_LAYERS if name in _LAYERS else MOST


def is_number(value: Any) -> bool:
    """Return whether a value is a number that can be computed with; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _MOST_NUMBER


def is_same(one: Any, other: Any) -> bool:
    """Return whether two values are equal and of a kind: 0 isn't false."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _is_size(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
