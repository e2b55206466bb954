"""What takes the place of the suite's multi-head latent attention on CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mszoo.adapters.mindformers.positions import positions
from mszoo.layers import LatentAttention

if TYPE_CHECKING:
    import mindspore as ms


class MultiHeadLatentAttention(LatentAttention):
    """What the suite's ``MLASelfAttention`` computes, with queries of full or of low rank."""

    def __init__(self, cell: Any, *, prefix: str) -> None:
        config = cell.config
        super().__init__(
            hidden_size=config.hidden_size,
            num_heads=config.num_attention_heads,
            q_lora_rank=config.q_lora_rank,
            kv_lora_rank=config.kv_lora_rank,
            qk_nope_head_dim=config.qk_head_dim,
            qk_rope_head_dim=config.qk_pos_emb_head_dim,
            v_head_dim=config.v_head_dim,
            scale=cell.softmax_scale,
            eps=config.layernorm_epsilon,
            max_position=config.max_position_embeddings,
            rope_parameters=_rope(config),
            prefix=prefix,
        )


class MLASelfAttention(MultiHeadLatentAttention):
    """The suite's ``MLASelfAttention`` in a layer that stays the suite's."""

    def forward(self, hidden_states: ms.Tensor, **_: Any) -> ms.Tensor:  # type: ignore[override]
        """[T, hidden] -> [T, hidden]."""
        return super().forward(positions(), hidden_states)


def _rope(config: Any) -> dict[str, Any]:
    """Return the rotary embedding's parameters, as Hugging Face calls them, of the suite's config."""
    rope = {"rope_type": "default", "rope_theta": config.rotary_base}
    if config.rope_type != "yarn":
        return rope
    return rope | {
        "rope_type": "yarn",
        "factor": config.rotary_scaling_factor,
        "original_max_position_embeddings": config.max_position_embeddings,
        "beta_fast": config.beta_fast,
        "beta_slow": config.beta_slow,
        "mscale": config.mscale,
        "mscale_all_dim": config.mscale_all_dim,
    }
