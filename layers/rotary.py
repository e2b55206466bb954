"""Rotary position embedding of the query and key heads inside the fused ``qkv``."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any
from weakref import WeakValueDictionary

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from vllm.config import get_current_vllm_config

import mindspore as ms  # isort: skip
from mszoo.kernels import dispatch  # isort: skip
from mszoo.kernels.exchange import ParameterView, move_to_mindspore  # isort: skip
from mszoo.registry.errors import RefusalError  # isort: skip

#: Rope types whose frequencies do not depend on the length of the sequence at hand.
_STATIC_TYPES = ("default", "linear", "llama3", "yarn")

#: The tables that layers use now; all layers of a model share one, a long context's takes megabytes.
_tables: WeakValueDictionary[tuple[object, ...], torch.Tensor] = WeakValueDictionary()


class RotaryEmbedding(torch.nn.Module):
    """Rotates queries and keys by halves of a head, by a table of cosines and sines.

    The frequencies are those of Hugging Face's ``modeling_rope_utils``: a rope type differs from another only
    in the table.

    Args:
        head_size: D.
        num_heads: query heads on this rank.
        num_kv_heads: key/value heads on this rank.
        max_position: ``max_position_embeddings`` of the config.
        rope_parameters: ``rope_parameters`` of the config (transformers 5): rope_type, rope_theta and the
            type's own.

    Raises:
        RefusalError: the rope type, or this length with it, has no right answer here.
    """

    #: Whether pairs of neighbours turn instead of halves.
    interleaved = False

    def __init__(
        self,
        head_size: int,
        num_heads: int,
        num_kv_heads: int,
        max_position: int,
        rope_parameters: dict[str, Any],
    ) -> None:
        super().__init__()
        model_config = get_current_vllm_config().model_config
        positions = max(model_config.max_model_len, max_position)
        dtype = torch.get_default_dtype()
        key = json.dumps(rope_parameters, sort_keys=True), head_size, max_position, positions, dtype
        table = _tables.get(key)
        if table is None:
            table = _tables[key] = _cos_sin_table(
                head_size, max_position, rope_parameters, model_config.max_model_len, positions
            ).to(dtype)
            if dispatch.current().base == "mindspore":
                move_to_mindspore(table)
        self.register_buffer("cos_sin_cache", table, persistent=False)
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self._view = ParameterView()
        self._rotate = dispatch.current().function("rotary_embedding")

    def forward(self, positions: ms.Tensor, qkv: ms.Tensor) -> ms.Tensor:
        """Return ``qkv`` [T, (H + 2 G) D] rotated by ``positions`` [T]; the input may be overwritten."""
        return self._rotate(
            positions,
            qkv,
            self._view.of(self.cos_sin_cache),
            self.num_heads,
            self.num_kv_heads,
            self.interleaved,
        )


class InterleavedRotaryEmbedding(RotaryEmbedding):
    """Rotates pairs of neighbours instead of halves."""

    interleaved = True


def _cos_sin_table(
    head_size: int, max_position: int, rope: dict[str, Any], max_model_len: int, positions: int
) -> torch.Tensor:
    """Return [positions, R] float32: R/2 cosines, then R/2 sines, R the rotated part of a head."""
    rope_type = rope.get("rope_type", "default")
    rotary_size = int(head_size * rope.get("partial_rotary_factor", 1.0))
    scaling = 1.0
    if rope_type == "dynamic" and max_model_len <= max_position:
        rope_type = "default"  # up to max_position_embeddings the dynamic type is the default one
    elif rope_type == "dynamic":
        raise RefusalError(
            "config.json",
            f"rope_type='dynamic' changes the keys of earlier tokens once a sequence passes "
            f"max_position_embeddings={max_position}, and max_model_len is {max_model_len}",
            f"Serve with --max-model-len {max_position}",
        )
    if rope_type not in _STATIC_TYPES:
        raise RefusalError(
            "config.json",
            f"rope_type={rope_type!r} is not supported",
            f"Supported types: {', '.join((*_STATIC_TYPES, 'dynamic'))}",
        )
    if rope_type == "default":
        exponents = torch.arange(0, rotary_size, 2, dtype=torch.int64).float() / rotary_size
        frequencies = 1.0 / (rope["rope_theta"] ** exponents)
    else:
        # The functions read a config; this is the part of it that they read.
        config = SimpleNamespace(
            rope_parameters=rope,
            head_dim=head_size,
            hidden_size=head_size,
            num_attention_heads=1,
            max_position_embeddings=max_position,
            standardize_rope_params=lambda: None,
        )
        frequencies, scaling = ROPE_INIT_FUNCTIONS[rope_type](config, torch.device("cpu"))
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies.float())
    return torch.cat([angles.cos() * scaling, angles.sin() * scaling], -1)
