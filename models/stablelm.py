"""StableLM (3B-4E1T, 2 1.6B, 2 12B)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec, NormSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class StableLmForCausalLM(DecoderForCausalLM):
    """StableLM: as Hugging Face's ``models/stablelm`` defines it; each head may have a norm of its own."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``stablelm`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        norm, mlp = NormSpec("layer_norm", reader.required("layer_norm_eps")), reader.mlp()
        bias, parallel = reader.flag("use_qkv_bias"), reader.flag("use_parallel_residual")
        of_heads: dict[str, Any] = {}
        if reader.flag("qk_layernorm"):
            of_heads = {"qk_norm": replace(norm, bias=False), "qk_norm_weights": "listed"}
            of_heads |= {"q_norm_name": "q_layernorm", "k_norm_name": "k_layernorm"}

        def layer(index: int) -> DecoderLayerSpec:
            attention = reader.attention(
                index, head_size=reader.head_size_of_equal_shares(), qkv_bias=bias, **of_heads
            )
            made = reader.pre_norm_layer(norm, attention, mlp)
            return replace(made, norm_before_mlp=None, parallel_residual=True) if parallel else made

        return reader.decoder(layer, norm)
