"""MiniMax-M2."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.moe_reader import MoEReader


class MiniMaxM2ForCausalLM(DecoderForCausalLM):
    """MiniMax-M2: as Hugging Face's ``models/minimax_m2`` defines it; it norms all queries, and keys, together."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``minimax_m2`` config."""
        reader = MoEReader(config, who, reference=reference_of(config))
        norm = reader.rms_norm()
        moe = reader.moe(
            "num_local_experts",
            intermediate_size=reader.required("intermediate_size"),
            scoring_func="sigmoid",
            correction_bias_name="e_score_correction_bias",
            name="block_sparse_moe",
            expert_names=("w1", "w3", "w2"),
        )
        return reader.pre_norm_decoder(
            norm,
            moe,
            lambda index: reader.attention(index, qk_norm=norm, qk_norm_spans_heads=True),
            unserved=reader.prediction_tensors(),
        )
