"""GPT-J and CodeGen: attention and MLP side by side, and a part of each head turns, by pairs."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec, NormSpec, QKVLayout, RotarySpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader

#: CodeGen's checkpoints are in four parts, as it was trained on so many accelerators.
_PARTS = 4


class GPTJForCausalLM(DecoderForCausalLM):
    """GPT-J: as Hugging Face's ``models/gptj`` defines it."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``gptj`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        return _read(reader, ("bias", "masked_bias"))


class CodeGenForCausalLM(DecoderForCausalLM):
    """CodeGen: as Hugging Face's ``models/codegen`` defines it; queries, values and keys come in four groups."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``codegen`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        reader.ignore("n_ctx")  # the reference makes a number of it that it never uses
        heads = reader.required("num_attention_heads")
        if heads % _PARTS:
            reader.refuse("num_attention_heads", heads)
        return _read(reader, ("causal_mask",), qkv_layout=QKVLayout(_PARTS, "qvk"))


def _read(reader: DecoderReader, ignored: tuple[str, ...], **changes: Any) -> DecoderSpec:
    size, turned = reader.head_size_of_equal_shares(), reader.required("rotary_dim")
    if turned > size or turned % 2 or int(size * (turned / size)) != turned:
        reader.refuse("rotary_dim", turned)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": turned / size}
    rotary = RotarySpec(rope, reader.required("max_position_embeddings"), is_neox_style=False)
    norm = NormSpec("layer_norm", reader.required("layer_norm_epsilon"))
    mlp = reader.gpt_mlp("fc_in", "fc_out")

    def layer(index: int) -> DecoderLayerSpec:
        attention = reader.attention(
            index, head_size=size, rotary=rotary, name="attn", o_name="out_proj", **changes
        )
        return reader.layer(attention, mlp, norm_before_attention=norm.named("ln_1"), parallel_residual=True)

    return reader.decoder(
        layer,
        norm.named("ln_f"),
        lm_head_bias=True,
        name="transformer",
        embedding_name="wte",
        layers_name="h",
        ignored=ignored,
    )
