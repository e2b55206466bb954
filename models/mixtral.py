"""Mixtral."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.moe_reader import MoEReader


class MixtralForCausalLM(DecoderForCausalLM):
    """Mixtral: as Hugging Face's ``models/mixtral`` defines it; each expert is as wide as a dense MLP."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``mixtral`` config."""
        reader = MoEReader(config, who, reference=reference_of(config))
        norm = reader.rms_norm()
        moe = reader.moe(
            "num_local_experts",
            intermediate_size=reader.required("intermediate_size"),
            name="block_sparse_moe",
            expert_names=("w1", "w3", "w2"),
        )
        return reader.pre_norm_decoder(norm, moe, reader.attention)
