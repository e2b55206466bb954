"""Phi (Phi-1, Phi-1.5, Phi-2)."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec, NormSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class PhiForCausalLM(DecoderForCausalLM):
    """Phi: as Hugging Face's ``models/phi`` defines it; attention and MLP see the same norm of the stream."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``phi`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        reader.must_be("qk_layernorm", False)
        norm = NormSpec("layer_norm", reader.required("layer_norm_eps"))
        mlp = reader.mlp(gated=False, bias=True, up_name="fc1", down_name="fc2")

        def layer(index: int) -> DecoderLayerSpec:
            return reader.layer(
                reader.attention(index, qkv_bias=True, o_bias=True, o_name="dense"),
                mlp,
                norm_before_attention=norm.named("input_layernorm"),
                parallel_residual=True,
            )

        return reader.decoder(layer, norm.named("final_layernorm"), lm_head_bias=True)
