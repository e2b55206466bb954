"""Nomic Embed, as an encoder: its config and what that means are the publisher's."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder.spec import MLPSpec, NormSpec, RotarySpec
from mszoo.layers.encoder import EncoderForPooling, EncoderSpec
from mszoo.models.encoder_reader import EncoderReader

#: The publisher's names, which are GPT-2's.
_NAMES = {
    "hidden_act": "activation_function",
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
#: By activation: the gate's, or the only one's; and whether there is a gate.
_ACTIVATIONS = {"swiglu": ("silu", True), "geglu": ("gelu", True), "gelu": ("gelu", False)}
#: Fields that are implemented with false or 0 alone; and those of training, of how it is computed, or vLLM's.
_OFF = """causal moe_every_n_layers num_heads_kv parallel_block prenorm rotary_emb_interleaved rotary_emb_scale_base
    rotary_head_dim scale_attn_by_inverse_layer_idx use_rms_norm"""
_IGNORED = """attention_probs_dropout_prob attn_pdrop bias dense_seq_output expert_choice_router ffn_div
    fused_bias_fc fused_dropout_add_ln head_dim hidden_act hidden_dropout_prob hidden_size intermediate_size
    last_layer_subset layer_norm_eps max_position_embeddings n_positions num_attention_heads num_hidden_layers
    pad_vocab_size_multiple parallel_block_tied_norm partial_rotary_factor reorder_and_upcast_attn rope_theta
    rotary_kwargs summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
    use_flash_attn use_xentropy"""


class NomicBertModel(EncoderForPooling):
    """Nomic Embed 1 and 1.5, as the code beside them defines them: BERT with rotation and mostly a gated MLP."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> EncoderSpec:
        """Read the publisher's config."""
        reader = EncoderReader(config, who, _NAMES)
        for name in _OFF.split():
            reader.must_be(name, False, 0)
        reader.must_be("position_embedding_type", "rope", "rotary")
        if (
            reader.required("rotary_emb_fraction") != 1.0
        ):  # positions are learned, or a part of each head turns
            reader.refuse("rotary_emb_fraction", reader.required("rotary_emb_fraction"))
        reader.must_be("scale_attn_weights", True)
        reader.ignore(*_IGNORED.split())
        norm = NormSpec("layer_norm", reader.required("layer_norm_epsilon"))
        bias = reader.flag("qkv_proj_bias")
        names = {"name": "attn", "qkv_name": "Wqkv", "o_name": "out_proj"}
        layer = reader.layer(
            reader.encoder_attention(rotary=_rotary(reader), qkv_bias=bias, o_bias=bias, **names),
            _mlp(reader),
            norm_after_attention=norm.named("norm1"),
            norm_after_mlp=norm.named("norm2"),
            norms_sums=True,
        )
        return reader.encoder(
            lambda _: layer,
            norm.named("emb_ln"),
            token_types=reader.token_types(may_lack=True),
            layers_name="encoder.layers",
            ignored=("cls.*", "pooler.*"),
        )


def _rotary(reader: EncoderReader) -> RotarySpec:
    given = dict(reader.optional("rope_parameters", None) or {})
    given["rope_theta"] = reader.required("rotary_emb_base")
    given.pop("partial_rotary_factor", None)  # vLLM's name of rotary_emb_fraction
    factor = reader.optional("rotary_scaling_factor", None)
    if factor:
        given |= {"rope_type": "dynamic", "factor": factor}
    return RotarySpec(reader.rope(given), reader.required("max_trained_positions"))


def _mlp(reader: EncoderReader) -> MLPSpec:
    name, width = reader.required("activation_function"), reader.required("n_inner")
    if name not in _ACTIVATIONS:
        reader.refuse("activation_function", name)
    act, gated = _ACTIVATIONS[name]
    if gated and width % 256:  # the publisher's code makes more of it
        reader.refuse("n_inner", width)
    return MLPSpec(
        width,
        act,
        gated=gated,
        bias=reader.flag("mlp_fc1_bias"),
        down_bias=reader.flag("mlp_fc2_bias"),
        up_name="gate_up_proj" if gated else "fc1",
        down_name="fc2",
    )
