"""Qwen2-MoE (Qwen1.5-MoE, Qwen2-57B-A14B) and Qwen3-MoE."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec, MoESpec
from mszoo.models.config_keys import reference_of
from mszoo.models.moe_reader import MoEReader


class Qwen2MoeForCausalLM(DecoderForCausalLM):
    """Qwen2-MoE: as Hugging Face's ``models/qwen2_moe`` defines it; a gate weighs the shared expert."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``qwen2_moe`` config."""
        reader = MoEReader(config, who, reference=reference_of(config))
        width = reader.required("shared_expert_intermediate_size")
        moe = reader.moe(
            "num_experts",
            renormalize=reader.flag("norm_topk_prob"),
            shared=reader.mlp(intermediate_size=width, name="shared_expert"),
            shared_gate_name="shared_expert_gate",
        )
        return _read(reader, moe, qkv_bias=reader.flag("qkv_bias"))


class Qwen3MoeForCausalLM(DecoderForCausalLM):
    """Qwen3-MoE: as Hugging Face's ``models/qwen3_moe`` defines it; it norms queries and keys of each head."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``qwen3_moe`` config."""
        reader = MoEReader(config, who, reference=reference_of(config))
        bias = reader.flag("attention_bias")
        return _read(reader, cls.read_moe(reader), qkv_bias=bias, o_bias=bias, qk_norm=reader.rms_norm())

    @classmethod
    def read_moe(cls, reader: MoEReader) -> MoESpec:
        """Return the mixture of experts."""
        return reader.moe("num_experts", renormalize=reader.flag("norm_topk_prob"))


def _read(reader: MoEReader, moe: MoESpec, **attention: Any) -> DecoderSpec:
    """Read what both have in common; ``attention`` are fields of its spec."""
    norm, mlp = reader.rms_norm(), reader.mlp()
    step, dense = reader.required("decoder_sparse_step"), reader.optional("mlp_only_layers", ())
    if not isinstance(step, int) or step < 1:
        reader.refuse("decoder_sparse_step", step)
    if not isinstance(dense, (list, tuple)):
        reader.refuse("mlp_only_layers", dense)

    def layer(index: int) -> DecoderLayerSpec:
        has_experts = index not in dense and (index + 1) % step == 0
        return reader.pre_norm_layer(norm, reader.attention(index, **attention), moe if has_experts else mlp)

    return reader.decoder(layer, norm)
