"""ERNIE 4.5 with experts."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.moe_reader import MoEReader


class Ernie4_5_MoeForCausalLM(DecoderForCausalLM):
    """ERNIE 4.5 with experts: as Hugging Face's ``models/ernie4_5_moe`` defines it; heads turn by pairs."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read an ``ernie4_5_moe`` config."""
        reader = MoEReader(config, who, reference=reference_of(config))
        reader.must_be("use_bias", False)
        reader.must_be("moe_norm_min", 1e-12)  # no sum of weights is below
        norm, mlp = reader.rms_norm(), reader.mlp()
        shared = "moe_num_shared_experts"
        moe = reader.moe(
            "moe_num_experts",
            correction_bias_name="moe_statics.e_score_correction_bias",
            shared=reader.shared_experts(shared) if reader.required(shared) else None,
        )
        ends = (reader.required("moe_layer_start_index"), reader.required("moe_layer_end_index"))
        interval = reader.required("moe_layer_interval")
        if not isinstance(interval, int) or interval < 1:
            reader.refuse("moe_layer_interval", interval)

        def layer(index: int) -> DecoderLayerSpec:
            has_experts = (index + 1) % interval == 0 and ends[0] <= index <= ends[1]
            attention = reader.attention(index, is_neox_style=False)
            return reader.pre_norm_layer(norm, attention, moe if has_experts else mlp)

        return reader.decoder(layer, norm, unserved=("model.mtp_*",))
