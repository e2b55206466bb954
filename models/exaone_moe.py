"""EXAONE-MoE (K-EXAONE)."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.moe_reader import MoEReader


class ExaoneMoeForCausalLM(DecoderForCausalLM):
    """EXAONE-MoE: as Hugging Face's ``models/exaone_moe`` defines it; layers that see everything don't turn."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read an ``exaone_moe`` config."""
        reader = MoEReader(config, who, reference=reference_of(config))
        norm, sparse, mlp = reader.rms_norm(), reader.sparse_by_type(), reader.mlp()
        moe = reader.grouped_moe(
            "num_experts", "num_shared_experts", correction_bias_name="e_score_correction_bias"
        )
        no_window = reader.optional("sliding_window", None) is None

        def layer(index: int) -> DecoderLayerSpec:
            turns = no_window or reader.sliding_window(index) is not None
            rotary = reader.rotary(index) if turns else None
            attention = reader.attention(index, qk_norm=norm, rotary=rotary)
            return reader.pre_norm_layer(norm, attention, moe if sparse[index] else mlp)

        return reader.decoder(layer, norm, unserved=("mtp.*",))
