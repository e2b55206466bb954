"""GPT-2 and GPT-BigCode (SantaCoder, StarCoder): learned positions, and projections that old checkpoints fused."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec, NormSpec, PositionSpec, QKVLayout
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class GPT2LMHeadModel(DecoderForCausalLM):
    """GPT-2: as Hugging Face's ``models/gpt2`` defines it."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``gpt2`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        reader.ignore("reorder_and_upcast_attn")  # for the range of float16: vLLM's attention sums in float32
        by_layer = reader.flag("scale_attn_by_inverse_layer_idx")
        return _read(reader, by_layer=by_layer, conv1d=True)


class GPTBigCodeForCausalLM(DecoderForCausalLM):
    """GPT-BigCode: as Hugging Face's ``models/gpt_bigcode`` defines it; heads share one key and value, or none."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``gpt_bigcode`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        if reader.flag("multi_query", True):
            return _read(reader, num_kv_heads=1)
        return _read(reader, qkv_layout=QKVLayout(reader.required("num_attention_heads")))


def _read(
    reader: DecoderReader, *, by_layer: bool = False, conv1d: bool = False, **heads: Any
) -> DecoderSpec:
    reader.must_be("add_cross_attention", False)
    size = reader.head_size_of_equal_shares()
    scale = size**-0.5 if reader.flag("scale_attn_weights", True) else 1.0
    norm = NormSpec("layer_norm", reader.required("layer_norm_epsilon"))
    mlp = reader.gpt_mlp("c_fc", "c_proj", conv1d=conv1d)

    def layer(index: int) -> DecoderLayerSpec:
        attention = reader.attention(
            index,
            head_size=size,
            rotary=None,
            scale=scale / (index + 1) if by_layer else scale,
            qkv_bias=True,
            o_bias=True,
            name="attn",
            qkv_name="c_attn",
            o_name="c_proj",
            conv1d=conv1d,
            **heads,
        )
        return reader.layer(
            attention, mlp, norm_before_attention=norm.named("ln_1"), norm_before_mlp=norm.named("ln_2")
        )

    return reader.decoder(
        layer,
        norm.named("ln_f"),
        positions=PositionSpec(reader.required("max_position_embeddings"), name="wpe"),
        name="transformer",
        embedding_name="wte",
        layers_name="h",
        ignored=("bias", "masked_bias"),
    )
