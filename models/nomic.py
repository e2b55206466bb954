"""Nomic Embed, as an encoder: its config and what that means are the publisher's."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder.spec import MLPSpec, NormSpec, PositionSpec, RotarySpec
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
#: Fields with values that are implemented; and those of training, of heads, of how it is computed, or vLLM's.
_FIXED: dict[str, tuple[Any, ...]] = {
    "causal": (False,),
    "moe_every_n_layers": (0,),
    "num_heads_kv": (),
    "parallel_block": (False,),
    "position_embedding_type": ("rope", "rotary"),
    "prenorm": (False,),
    "rotary_emb_interleaved": (False,),
    "rotary_emb_scale_base": (),
    "rotary_head_dim": (False,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "scale_attn_weights": (True,),
    "use_rms_norm": (False,),
}
_IGNORED = """attention_probs_dropout_prob attn_pdrop bias dense_seq_output expert_choice_router ffn_div
    fused_bias_fc fused_dropout_add_ln head_dim hidden_act hidden_dropout_prob hidden_size intermediate_size
    last_layer_subset layer_norm_eps max_position_embeddings mlp_fc1_bias n_positions num_attention_heads
    num_hidden_layers pad_vocab_size_multiple parallel_block_tied_norm partial_rotary_factor reorder_and_upcast_attn
    rope_theta rotary_kwargs summary_activation summary_first_dropout summary_proj_to_labels summary_type
    summary_use_proj use_flash_attn use_xentropy""".split()


class NomicBertModel(EncoderForPooling):
    """Nomic Embed 1 and 1.5, as the code beside them defines them: BERT with rotation and mostly a gated MLP."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> EncoderSpec:
        """Read the publisher's config."""
        reader = EncoderReader(config, who, _NAMES)
        for name, allowed in _FIXED.items():
            reader.must_be(name, *allowed)
        reader.ignore(*_IGNORED)
        norm = NormSpec("layer_norm", reader.required("layer_norm_epsilon"))
        bias = reader.flag("qkv_proj_bias")
        attention = reader.encoder_attention(
            rotary=_rotary(reader), qkv_bias=bias, o_bias=bias, name="attn", qkv_name="Wqkv", o_name="out_proj"
        )
        layer = reader.layer(
            attention,
            _mlp(reader),
            norm_after_attention=norm.named("norm1"),
            norm_after_mlp=norm.named("norm2"),
            norms_sums=True,
        )
        types = reader.required("type_vocab_size")
        return reader.encoder(
            lambda _: layer,
            norm.named("emb_ln"),
            token_types=PositionSpec(types, name="embeddings.token_type_embeddings") if types else None,
            layers_name="encoder.layers",
            ignored=("cls.*", "pooler.*"),
        )


def _rotary(reader: EncoderReader) -> RotarySpec:
    if reader.required("rotary_emb_fraction") != 1.0:  # positions would be learned without a rotation
        reader.refuse("rotary_emb_fraction", reader.required("rotary_emb_fraction"))
    given = {**(reader.optional("rope_parameters", None) or {}), "rope_theta": reader.required("rotary_emb_base")}
    given.pop("partial_rotary_factor", None)
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
    first, second = reader.flag("mlp_fc1_bias"), reader.flag("mlp_fc2_bias")
    names = {} if gated else {"up_name": "fc1"}
    return reader.mlp(
        intermediate_size=width, hidden_act=act, gated=gated, bias=first, down_bias=second, down_name="fc2", **names
    )
