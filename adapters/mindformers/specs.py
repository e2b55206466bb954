"""What the suite's decoder layers are: their specs, read off its cells, which hold what it made of the config."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import (
    AttentionSpec,
    DecoderLayerSpec,
    LatentAttentionSpec,
    MLPSpec,
    MoESpec,
    NormSpec,
    RotarySpec,
)
from mszoo.models.latent import NORM_EPS
from mszoo.registry.errors import RefusalError

#: The suite's norms of a layer, and what checkpoints call them; in a spec's order.
_NORMS = {
    "input_layernorm": "input_layernorm",
    "post_self_attn_layernorm": "post_self_attn_layernorm",
    "pre_mlp_layernorm": "post_attention_layernorm",
    "post_mlp_layernorm": "post_mlp_layernorm",
}


def layer_spec(cell: Any) -> DecoderLayerSpec:
    """Return what the suite's ``TransformerLayer`` is.

    Raises:
        RefusalError: a part of it is not the usual one.
    """
    if cell.apply_residual_connection_post_norm:
        raise _unusual("the residual stream is taken after the norms")
    before_attention, after_attention, before_mlp, after_mlp = (
        _norm(getattr(cell, ours), theirs) for ours, theirs in _NORMS.items()
    )
    attention, mlp = cell.self_attention, cell.mlp
    return DecoderLayerSpec(
        attention.config.hidden_size,
        _kind(attention, {"SelfAttention": _attention, "MLASelfAttention": _latent_attention})(attention),
        _kind(mlp, {"MLP": _mlp, "MoELayer": _experts})(mlp),
        before_attention,
        after_attention,
        before_mlp,
        after_mlp,
    )


def _attention(cell: Any) -> AttentionSpec:
    config = cell.config
    has_qk_norm = type(getattr(cell, "q_layernorm", None)).__name__ == "RMSNorm"
    rotary = RotarySpec(
        {
            "rope_type": "default",
            "rope_theta": config.rotary_base,
            "partial_rotary_factor": config.partial_rotary_factor,
        },
        config.max_position_embeddings,
        is_neox_style=config.rotary_cos_format != "interleaved",
    )
    return AttentionSpec(
        config.num_attention_heads,
        config.num_query_groups or config.num_attention_heads,
        config.kv_channels,
        qkv_bias=config.add_qkv_bias,
        o_bias=config.add_bias_linear,
        rotary=rotary,
        qk_norm=NormSpec("rms_norm", config.layernorm_epsilon) if has_qk_norm else None,
    )


def _latent_attention(cell: Any) -> LatentAttentionSpec:
    config = cell.config
    parameters = {"rope_type": "default", "rope_theta": config.rotary_base}
    if config.rope_type == "yarn":
        parameters |= {
            "rope_type": "yarn",
            "factor": config.rotary_scaling_factor,
            "original_max_position_embeddings": config.max_position_embeddings,
            "beta_fast": config.beta_fast,
            "beta_slow": config.beta_slow,
            "mscale": config.mscale,
            "mscale_all_dim": config.mscale_all_dim,
        }
    return LatentAttentionSpec(
        config.num_attention_heads,
        config.q_lora_rank,
        config.kv_lora_rank,
        config.qk_head_dim,
        config.qk_pos_emb_head_dim,
        config.v_head_dim,
        cell.softmax_scale,
        NORM_EPS,  # the suite takes rms_norm_eps
        RotarySpec(parameters, config.max_position_embeddings, is_neox_style=False),
    )


def _mlp(cell: Any, name: str = "mlp") -> MLPSpec:
    config = cell.config
    if not config.gated_linear_unit or getattr(cell, "use_shared_expert_gate", False):
        raise _unusual("its MLP is not the gated one")
    return MLPSpec(
        config.ffn_hidden_size,
        config.hidden_act,
        bias=_has_bias(config, "add_mlp_fc1_bias_linear"),
        down_bias=_has_bias(config, "add_mlp_fc2_bias_linear"),
        name=name,
    )


def _experts(cell: Any) -> MoESpec:
    config = cell.config
    return MoESpec(
        config.num_moe_experts,
        config.moe_router_topk,
        config.moe_ffn_hidden_size,
        config.hidden_act,
        scoring_func=config.moe_router_score_function,
        renormalize=config.norm_topk_prob,
        routed_scaling_factor=config.moe_router_topk_scaling_factor or 1.0,
        correction_bias_name="gate.e_score_correction_bias" if config.moe_router_enable_expert_bias else "",
        num_expert_group=config.moe_router_num_groups or 1,
        topk_group=config.moe_router_group_topk or 1,
        shared=_mlp(cell.shared_experts, "shared_experts") if cell.use_shared_expert else None,
    )


def _norm(cell: Any, name: str) -> NormSpec | None:
    if type(cell).__name__ == "IdentityOp":
        return None
    if type(cell).__name__ != "RMSNorm":
        raise _unusual(f"its {name} is a {type(cell).__name__}")
    return NormSpec("rms_norm", cell.eps, name)


def _kind(cell: Any, known: dict[str, Any]) -> Any:
    """Return what reads a cell of this class."""
    kind = type(cell).__name__
    if kind not in known:
        raise _unusual(f"it has a {kind}")
    return known[kind]


def _has_bias(config: Any, name: str) -> bool:
    own = getattr(config, name, None)
    return bool(config.add_bias_linear if own is None else own)


def _unusual(what: str) -> RefusalError:
    return RefusalError(
        "mindformers",
        f"a layer of its network is not a usual one: {what}",
        "Serve the model with another implementation",
    )
