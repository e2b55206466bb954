"""GLM-4-MoE (GLM-4.5 to 4.7) and GLM-4-MoE-Lite (GLM-4.7-Flash)."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.latent import latent_attention
from mszoo.models.moe_reader import MoEReader


class Glm4MoeForCausalLM(DecoderForCausalLM):
    """GLM-4-MoE: as Hugging Face's ``models/glm4_moe`` defines it; a part of each head turns, by halves."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``glm4_moe`` config."""
        reader = MoEReader(config, who, reference=reference_of(config))
        norm, bias = reader.rms_norm(), reader.flag("attention_bias")
        qk_norm = norm if reader.flag("use_qk_norm") else None
        sparse, mlp, moe = reader.sparse_from(), reader.mlp(), reader.grouped_moe()

        def layer(index: int) -> DecoderLayerSpec:
            attention = reader.attention(index, qkv_bias=bias, qk_norm=qk_norm)
            return reader.pre_norm_layer(norm, attention, moe if sparse[index] else mlp)

        return reader.decoder(layer, norm, unserved=reader.prediction_tensors())


class Glm4MoeLiteForCausalLM(DecoderForCausalLM):
    """GLM-4-MoE-Lite: as Hugging Face's ``models/glm4_moe_lite`` defines it; it attends on a latent cache."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``glm4_moe_lite`` config."""
        reader = MoEReader(config, who, reference=reference_of(config))
        norm, sparse = reader.rms_norm(), reader.sparse_by_type()
        mlp, moe = reader.mlp(), reader.grouped_moe()
        attention = latent_attention(reader, is_neox_style=not reader.flag("rope_interleave", True))

        def layer(index: int) -> DecoderLayerSpec:
            return reader.pre_norm_layer(norm, attention, moe if sparse[index] else mlp)

        return reader.decoder(layer, norm, unserved=reader.prediction_tensors())
