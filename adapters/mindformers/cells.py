"""What takes the place of the suite's cells on CPU, where most of the ops that they call have no kernel."""

from __future__ import annotations

from typing import Any

import mindspore as ms  # isort: skip
from mszoo.adapters.mindformers.positions import positions  # isort: skip
from mszoo.layers import (  # isort: skip
    GatedActivation,
    Module,
    RMSNorm,
    apply_linear,
    gate_up_linear,
    row_linear,
)
from mszoo.layers.cells import CellStays  # isort: skip
from mszoo.models import decoder  # isort: skip
from mszoo.models.config import DecoderConfig  # isort: skip


class SelfAttention(decoder.SelfAttention):
    """The suite's ``SelfAttention``: projections, norms of heads, rotation, and vLLM's paged attention."""

    def __init__(self, cell: Any, *, prefix: str) -> None:
        super().__init__(decoder_config(cell), None, prefix)

    def forward(self, hidden_states: ms.Tensor, **_: Any) -> ms.Tensor:  # type: ignore[override]
        """[T, hidden] -> [T, hidden]."""
        return super().forward(positions(), hidden_states)


class MLP(Module):
    """The suite's gated ``MLP``; also that of shared experts."""

    def __init__(self, cell: Any, *, prefix: str) -> None:
        super().__init__()
        config = cell.config
        if not config.gated_linear_unit or getattr(cell, "use_shared_expert_gate", False):
            raise unusual("its MLP is not the gated one")
        self.gate_up_proj = gate_up_linear(
            config.hidden_size,
            config.ffn_hidden_size,
            bias=_bias(config, "add_mlp_fc1_bias_linear"),
            prefix=f"{prefix}.gate_up_proj",
        )
        self.act_fn = GatedActivation(config.hidden_act)
        self.down_proj = row_linear(
            config.ffn_hidden_size,
            config.hidden_size,
            bias=_bias(config, "add_mlp_fc2_bias_linear"),
            prefix=f"{prefix}.down_proj",
        )

    def forward(self, hidden_states: ms.Tensor) -> ms.Tensor:
        """[T, hidden] -> [T, hidden]."""
        return apply_linear(self.down_proj, self.act_fn(apply_linear(self.gate_up_proj, hidden_states)))


class Norm(RMSNorm):
    """The suite's ``RMSNorm``."""

    def __init__(self, cell: Any, *, prefix: str) -> None:
        super().__init__(cell.hidden_size, cell.eps)

    def forward(self, x: ms.Tensor | tuple[ms.Tensor, ms.Tensor]) -> ms.Tensor:  # type: ignore[override]
        """[T, N], or that and a stream to add before -> [T, N]."""
        return super().forward(*x)[0] if isinstance(x, tuple) else super().forward(x)


def decoder_config(attention: Any) -> DecoderConfig:
    """Return the dense decoder's config of the suite's ``SelfAttention``: what the suite made of the model's."""
    config = attention.config
    return DecoderConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.ffn_hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_query_groups or config.num_attention_heads,
        head_dim=config.kv_channels,
        hidden_act=config.hidden_act,
        rms_norm_eps=config.layernorm_epsilon,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": config.rotary_base,
            "partial_rotary_factor": config.partial_rotary_factor,
        },
        tie_word_embeddings=False,
        qkv_bias=config.add_qkv_bias,
        output_bias=config.add_bias_linear,
        mlp_bias=False,
        qk_norm=kind_of(getattr(attention, "q_layernorm", None)) == "RMSNorm",
        sliding_windows=(None,) * config.num_layers,
        interleaved_rotary=config.rotary_cos_format == "interleaved",
    )


def kind_of(cell: Any) -> str:
    """Return the name of a cell's class."""
    return type(cell).__name__


def unusual(what: str) -> CellStays:
    """Return what a cell is refused with that isn't the usual one."""
    return CellStays(f"{what}; its parts are replaced one by one")


def _bias(config: Any, name: str) -> bool:
    own = getattr(config, name, None)
    return bool(config.add_bias_linear if own is None else own)
