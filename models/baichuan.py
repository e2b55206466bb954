"""Baichuan 7B and Baichuan 2 7B."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec
from mszoo.models.publisher import PublisherReader


class BaiChuanForCausalLM(DecoderForCausalLM):
    """Baichuan 7B: as its ``modeling_baichuan`` defines it; Llama's layers, with one projection for attention."""

    #: Whether the output projection multiplies by its rows' directions.
    normalizes_lm_head = False

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``baichuan`` config."""
        reader = PublisherReader(config, who)
        longest = reader.optional("model_max_length", None)
        if reader.optional("max_position_embeddings", None) is None and longest is not None:
            reader.refuse("model_max_length", longest)  # 13B's: no positions, but a bias of scores (ALiBi)
        reader.ignore("z_loss_weight", "_from_model_config")
        if cls.normalizes_lm_head:
            reader.must_be("tie_word_embeddings", False)
        norm, mlp = reader.rms_norm(), reader.mlp()

        def layer(index: int) -> DecoderLayerSpec:
            size = reader.head_size_of_equal_shares()
            return reader.pre_norm_layer(
                norm, reader.attention(index, head_size=size, qkv_name="W_pack"), mlp
            )

        return reader.decoder(layer, norm, normalizes_lm_head=cls.normalizes_lm_head)


class BaichuanForCausalLM(BaiChuanForCausalLM):
    """Baichuan 2 7B: the same, and logits are products with rows of length one."""

    normalizes_lm_head = True
