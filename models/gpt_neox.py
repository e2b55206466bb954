"""GPT-NeoX (Pythia, Dolly) and Persimmon: each head has its query, key and value beside each other."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import AttentionSpec, DecoderLayerSpec, DecoderSpec, NormSpec, QKVLayout
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class GPTNeoXForCausalLM(DecoderForCausalLM):
    """GPT-NeoX: as Hugging Face's ``models/gpt_neox`` defines it; its MLP has a norm of its own."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``gpt_neox`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        bias, parallel = reader.flag("attention_bias", True), reader.flag("use_parallel_residual", True)
        norm, mlp = NormSpec("layer_norm", reader.required("layer_norm_eps")), _mlp(reader)

        def layer(index: int) -> DecoderLayerSpec:
            return reader.layer(
                _attention(reader, index, qkv_bias=bias, o_bias=bias, name="attention"),
                mlp,
                norm_before_attention=norm.named("input_layernorm"),
                norm_before_mlp=norm.named("post_attention_layernorm"),
                parallel_residual=parallel,
            )

        return reader.decoder(
            layer,
            norm.named("final_layer_norm"),
            name="gpt_neox",
            embedding_name="embed_in",
            lm_head_name="embed_out",
            ignored=("bias", "masked_bias"),
        )


class PersimmonForCausalLM(DecoderForCausalLM):
    """Persimmon: as Hugging Face's ``models/persimmon`` defines it; queries and keys are normed, biases too."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``persimmon`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        norm, mlp = NormSpec("layer_norm", reader.required("layer_norm_eps")), _mlp(reader)
        of_heads: dict[str, Any] = {"q_norm_name": "q_layernorm", "k_norm_name": "k_layernorm"}
        of_heads["qk_norm"] = norm if reader.flag("qk_layernorm", True) else None

        def layer(index: int) -> DecoderLayerSpec:
            attention = _attention(reader, index, qkv_bias=True, o_bias=True, **of_heads)
            return reader.pre_norm_layer(norm, attention, mlp)

        return reader.decoder(layer, norm.named("final_layernorm"))


def _attention(reader: DecoderReader, index: int, **changes: Any) -> AttentionSpec:
    heads = reader.required("num_attention_heads")
    return reader.attention(
        index,
        head_size=reader.head_size_of_equal_shares(),
        num_kv_heads=heads,
        qkv_name="query_key_value",
        o_name="dense",
        qkv_layout=QKVLayout(heads),
        **changes,
    )


def _mlp(reader: DecoderReader) -> Any:
    return reader.mlp(gated=False, bias=True, up_name="dense_h_to_4h", down_name="dense_4h_to_h")
