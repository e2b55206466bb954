"""gpt-oss: attention with sinks, every other layer in a window, and experts with biases."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.moe_reader import MoEReader

#: Of the experts' activation in vLLM's kernel.
_ALPHA, _LIMIT = 1.702, 7.0


class GptOssForCausalLM(DecoderForCausalLM):
    """gpt-oss: as Hugging Face's ``models/gpt_oss`` defines it, on checkpoints in bfloat16 or float32."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``gpt_oss`` config."""
        reader = MoEReader(config, who, reference=reference_of(config))
        # Experts have one activation, whatever this says.
        reader.must_be("hidden_act", "silu")
        reader.must_be("swiglu_alpha", _ALPHA)
        reader.must_be("swiglu_limit", _LIMIT)
        norm, bias = reader.rms_norm(), reader.flag("attention_bias", True)
        moe = reader.moe(
            "num_local_experts",
            intermediate_size=reader.required("intermediate_size"),
            hidden_act="swigluoai",
            router_name="router",
            stacked_names=("experts.gate_up_proj", "experts.down_proj"),
            bias=True,
        )
        return reader.pre_norm_decoder(
            norm, moe, lambda index: reader.attention(index, qkv_bias=bias, o_bias=bias, sinks=True)
        )
