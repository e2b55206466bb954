"""Rotary position embedding of the query and key heads inside the fused ``qkv``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from weakref import WeakValueDictionary

import torch

from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from mszoo.kernels import dispatch
from mszoo.kernels.exchange import ParameterView, move_to_mindspore
from mszoo.layers.mrope import MRoPE, shared_mrope
from mszoo.layers.seam import get_current_vllm_config
from mszoo.registry.errors import RefusalError

import mindspore as ms

#: Rope types whose frequencies do not depend on the length of the sequence at hand.
_STATIC_TYPES = ("default", "linear", "llama3", "yarn")
#: Those that change the keys of earlier tokens once a sequence passes a length, which a cache can't follow, and the
#: field that has the length: up to there they are fixed.
_FIXED_UP_TO = {"dynamic": "max_position_embeddings", "longrope": "original_max_position_embeddings"}

#: The tables that layers use now; all layers of a model share one, a long context's takes megabytes.
_tables: WeakValueDictionary[tuple[object, ...], torch.Tensor] = WeakValueDictionary()


class RotaryEmbedding(torch.nn.Module):
    """Rotates queries and keys by a table of cosines and sines.

    The frequencies are those of Hugging Face's ``modeling_rope_utils``: a rope type differs from another only
    in the table.

    Args:
        head_size: D.
        num_heads: query heads on this rank.
        num_kv_heads: key/value heads on this rank.
        max_position: ``max_position_embeddings`` of the config.
        rope_parameters: ``rope_parameters`` of the config (transformers 5): rope_type, rope_theta and the
            type's own.
        is_neox_style: halves of a head turn (GPT-NeoX); otherwise pairs of neighbours (GPT-J).
        axes: which of a token's positions turns each frequency, where it has several (M-RoPE).

    Attributes:
        mrope: what fills the table for each step, and gives the positions in it; None where they have one axis.

    Raises:
        RefusalError: the rope type, or this length with it, has no right answer here.
    """

    mrope: MRoPE | None

    def __init__(
        self,
        head_size: int,
        num_heads: int,
        num_kv_heads: int,
        max_position: int,
        rope_parameters: Mapping[str, Any],
        is_neox_style: bool = True,
        axes: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.is_neox_style = is_neox_style
        rope_parameters = dict(rope_parameters)
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self._view = ParameterView()
        self._rotate = dispatch.current().function("rotary_embedding")
        model_config = get_current_vllm_config().model_config
        self.mrope = None
        if axes:
            longest = model_config.max_model_len
            with torch.device("cpu"):
                frequencies, scaling, _ = _frequencies(head_size, max_position, rope_parameters, longest)
            self.mrope = shared_mrope(rope_parameters, frequencies, scaling, axes)
            self.register_buffer("cos_sin_cache", self.mrope.table, persistent=False)
            return
        positions = max(model_config.max_model_len, max_position)
        dtype = torch.get_default_dtype()
        key = json.dumps(rope_parameters, sort_keys=True), head_size, max_position, positions, dtype
        table = _tables.get(key)
        if table is None:
            with torch.device("cpu"):  # Hugging Face's functions compute on the device that they are told
                table = _cos_sin_table(
                    head_size, max_position, rope_parameters, model_config.max_model_len, positions
                )
            table = _tables[key] = table.to(torch.get_default_device(), dtype)
            if dispatch.current().base == "mindspore":
                move_to_mindspore(table)
        self.register_buffer("cos_sin_cache", table, persistent=False)

    def forward(self, positions: ms.Tensor, qkv: ms.Tensor) -> ms.Tensor:
        """Return ``qkv`` [T, (H + 2 G) D] rotated by ``positions`` [T]; the input may be overwritten."""
        return self._rotate(
            positions,
            qkv,
            self._view.of(self.cos_sin_cache),
            self.num_heads,
            self.num_kv_heads,
            not self.is_neox_style,
        )


def _cos_sin_table(
    head_size: int, max_position: int, rope: dict[str, Any], max_model_len: int, positions: int
) -> torch.Tensor:
    """Return [positions, R] float32: R/2 cosines, then R/2 sines, R the rotated part of a head."""
    frequencies, scaling, longest = _frequencies(head_size, max_position, rope, max_model_len)
    angles = torch.outer(torch.arange(longest or positions, dtype=torch.float32), frequencies)
    return torch.cat([angles.cos() * scaling, angles.sin() * scaling], -1)


def _frequencies(
    head_size: int, max_position: int, rope: dict[str, Any], max_model_len: int
) -> tuple[torch.Tensor, float, int | None]:
    """Return frequencies [R/2] float32, what multiplies cosines and sines, and up to which position they are so."""
    longest: int | None = None
    rope_type = rope.get("rope_type", "default")
    rotary_size = int(head_size * rope.get("partial_rotary_factor", 1.0))
    scaling = 1.0
    if rope_type not in (*_STATIC_TYPES, *_FIXED_UP_TO):
        raise RefusalError(
            "config.json",
            f"rope_type={rope_type!r} is not supported",
            f"Supported types: {', '.join((*_STATIC_TYPES, *_FIXED_UP_TO))}",
        )
    if rope_type in _FIXED_UP_TO:
        field = _FIXED_UP_TO[rope_type]
        longest = max_position if rope_type == "dynamic" else rope.get(field) or max_position
        if max_model_len > longest:
            raise RefusalError(
                "config.json",
                f"rope_type={rope_type!r} changes the keys of earlier tokens once a sequence passes "
                f"{field}={longest}, and max_model_len is {max_model_len}",
                f"Serve with --max-model-len {longest}",
            )
    theta = rope["rope_theta"]
    if rope_type == "dynamic":  # up to there the default type, from another base where it gives one (Hunyuan)
        rope_type = "default"
        if rope.get("alpha"):
            theta *= rope["alpha"] ** (head_size / (head_size - 2))
    if rope_type == "default":
        exponents = torch.arange(0, rotary_size, 2, dtype=torch.int64).float() / rotary_size
        frequencies = 1.0 / (theta**exponents)
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
        try:
            frequencies, scaling = ROPE_INIT_FUNCTIONS[rope_type](config, torch.device("cpu"))
            scaling = rope.get("short_mscale", scaling)  # Phi-MoE's, up to where longrope is fixed
            if frequencies.shape != (rotary_size // 2,):
                raise ValueError(f"{len(frequencies)} for {rotary_size // 2} pairs")
        except (ArithmeticError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise RefusalError(
                "config.json",
                f"rope_parameters={rope!r} give no frequencies of rope_type={rope_type!r} ({error})",
                "Mend rope_parameters in config.json",
            ) from error
    return frequencies.float(), scaling, longest
