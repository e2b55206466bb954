"""SmolLM3."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import AttentionSpec, DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class SmolLM3ForCausalLM(DecoderForCausalLM):
    """SmolLM3: as Hugging Face's ``models/smollm3`` defines it; in some layers nothing turns."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``smollm3`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        bias, mlp = reader.flag("attention_bias"), reader.mlp(bias=reader.flag("mlp_bias"))
        turns = reader.required("no_rope_layers")  # 1 for a layer whose heads turn
        if not isinstance(turns, (list, tuple)) or len(turns) < reader.num_layers:
            reader.refuse("no_rope_layers", turns)
        if not reader.flag("use_sliding_window") and "sliding_attention" in (reader.layer_types() or ()):
            reader.refuse("use_sliding_window", False)

        def attention(index: int) -> AttentionSpec:
            rotary = reader.rotary(index) if turns[index] else None
            return reader.attention(index, qkv_bias=bias, o_bias=bias, rotary=rotary)

        return reader.pre_norm_decoder(reader.rms_norm(), mlp, attention)
