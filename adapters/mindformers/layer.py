"""What takes the place of the suite's whole layers on CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mindspore as ms  # isort: skip
from mszoo.adapters.mindformers.cells import MLP, decoder_config, kind_of, unusual  # isort: skip
from mszoo.adapters.mindformers.mla import MultiHeadLatentAttention  # isort: skip
from mszoo.adapters.mindformers.moe import MoELayer  # isort: skip
from mszoo.adapters.mindformers.positions import positions  # isort: skip
from mszoo.kernels.exchange import to_mindspore, to_torch  # isort: skip
from mszoo.models import decoder  # isort: skip

# By class of the suite's cell. The usual attention is the decoder layer's own.
_ATTENTIONS = {"SelfAttention": None, "MLASelfAttention": MultiHeadLatentAttention}
_MLPS = {"MLP": MLP, "MoELayer": MoELayer}


class TransformerLayer(decoder.DecoderLayer):
    """A layer whose parts are the usual ones, as a whole: mszoo's decoder layer.

    Between such layers the residual stream travels beside the output, not yet added to it.

    Args:
        cell: the suite's ``TransformerLayer``.
        prefix: the layer's name.

    Raises:
        CellStays: a part is not the usual one; the parts are then replaced one by one.
    """

    def __init__(self, cell: Any, *, prefix: str) -> None:
        _require(cell, "self_attention", *_ATTENTIONS)
        _require(cell, "mlp", *_MLPS)
        _require(cell, "input_layernorm", "RMSNorm")
        _require(cell, "pre_mlp_layernorm", "RMSNorm")
        after = [kind_of(cell.post_self_attn_layernorm), kind_of(cell.post_mlp_layernorm)]
        if after not in (["IdentityOp"] * 2, ["RMSNorm"] * 2):
            raise unusual(f"what attention and MLP return goes through {after[0]} and {after[1]}")
        if cell.apply_residual_connection_post_norm:
            raise unusual("the residual stream is taken after the norms")
        config = decoder_config(cell.self_attention)
        special = _ATTENTIONS[kind_of(cell.self_attention)]
        attention = special and special(cell.self_attention, prefix=f"{prefix}.self_attn")
        mlp = _MLPS[kind_of(cell.mlp)](cell.mlp, prefix=f"{prefix}.mlp")
        config = replace(config, sandwich_norms=after[0] == "RMSNorm")
        super().__init__(config, None, prefix, mlp, attention)
        #: Whether the next layer takes the stream; the model decides it.
        self.keeps_residual = False

    def forward(  # type: ignore[override]
        self, hidden_states: ms.Tensor | tuple[ms.Tensor, ms.Tensor], **_: Any
    ) -> ms.Tensor | tuple[ms.Tensor, ms.Tensor]:
        """[T, hidden], or that and the stream -> the same."""
        x, residual = hidden_states if isinstance(hidden_states, tuple) else (hidden_states, None)
        x, residual = super().forward(positions(), x, residual)
        return (x, residual) if self.keeps_residual else to_mindspore(to_torch(x) + to_torch(residual))


def _require(cell: Any, part: str, *kinds: str) -> None:
    found = kind_of(getattr(cell, part))
    if found not in kinds:
        raise unusual(f"its {part} is a {found}")
