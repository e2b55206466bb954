"""Gemma 1 to 3 (text) and VaultGemma."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderSpec, NormSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class GemmaForCausalLM(DecoderForCausalLM):
    """Gemma: as Hugging Face's ``models/gemma`` defines it.

    Attributes:
        norms: the layers' norms, by their fields in the spec.
        norms_heads: whether queries and keys are normed.
    """

    norms: ClassVar[Mapping[str, str]] = {
        "norm_before_attention": "input_layernorm",
        "norm_before_mlp": "post_attention_layernorm",
    }
    norms_heads: ClassVar[bool] = False

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read the config of any of them."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        reader.must_be("use_bidirectional_attention", False)
        norm, bias = (
            NormSpec("gemma_rms_norm", reader.required("rms_norm_eps")),
            reader.flag("attention_bias"),
        )
        act = "hidden_activation" if reader.has_effect("hidden_activation") else "hidden_act"
        mlp = reader.mlp(hidden_act=reader.required(act))
        scalar = reader.optional("query_pre_attn_scalar", None)
        of_attention = {
            "scale": None if scalar is None else scalar**-0.5,
            "logits_soft_cap": reader.optional("attn_logit_softcapping", None),
            "qk_norm": norm if cls.norms_heads else None,
        }
        norms = {field: norm.named(name) for field, name in cls.norms.items()}
        return reader.decoder(
            lambda index: reader.layer(
                reader.attention(index, qkv_bias=bias, o_bias=bias, **of_attention), mlp, **norms
            ),
            norm,
            embedding_multiplier=reader.hidden_size**0.5,
            scales_lookup=True,
            final_logit_softcapping=reader.optional("final_logit_softcapping", None),
        )


class Gemma2ForCausalLM(GemmaForCausalLM):
    """Gemma 2: as Hugging Face's ``models/gemma2`` defines it; it norms what attention and MLP return too."""

    norms: ClassVar[Mapping[str, str]] = {
        "norm_before_attention": "input_layernorm",
        "norm_after_attention": "post_attention_layernorm",
        "norm_before_mlp": "pre_feedforward_layernorm",
        "norm_after_mlp": "post_feedforward_layernorm",
    }


class Gemma3ForCausalLM(Gemma2ForCausalLM):
    """Gemma 3 (text): as Hugging Face's ``models/gemma3`` defines it."""

    norms_heads = True


class VaultGemmaForCausalLM(GemmaForCausalLM):
    """VaultGemma: as Hugging Face's ``models/vaultgemma`` defines it."""

    norms: ClassVar[Mapping[str, str]] = {
        "norm_before_attention": "input_layernorm",
        "norm_before_mlp": "pre_feedforward_layernorm",
    }
