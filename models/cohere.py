"""Command R and Command R+ (Cohere), Command R7B and A (Cohere 2)."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import DecoderLayerSpec, DecoderSpec, NormSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader


class CohereForCausalLM(DecoderForCausalLM):
    """Cohere: as Hugging Face's ``models/cohere`` defines it; attention and MLP see the same norm of the stream."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``cohere`` or ``cohere2`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        norm = NormSpec("layer_norm", reader.required("layer_norm_eps"), bias=False)
        bias, mlp = reader.flag("attention_bias"), reader.mlp()
        of_heads = {"qk_norm": norm, "qk_norm_weights": "stacked"} if reader.flag("use_qk_norm") else {}

        def layer(index: int) -> DecoderLayerSpec:
            changes = dict(of_heads) if cls.turns(reader, index) else of_heads | {"rotary": None}
            return reader.layer(
                reader.attention(index, qkv_bias=bias, o_bias=bias, is_neox_style=False, **changes),
                mlp,
                norm_before_attention=norm.named("input_layernorm"),
                parallel_residual=True,
            )

        return reader.decoder(layer, norm, logit_scale=reader.required("logit_scale"))

    @classmethod
    def turns(cls, reader: DecoderReader, index: int) -> bool:
        """Return whether heads of layer ``index`` turn, by pairs."""
        return True


class Cohere2ForCausalLM(CohereForCausalLM):
    """Cohere 2: as Hugging Face's ``models/cohere2`` defines it."""

    @classmethod
    def turns(cls, reader: DecoderReader, index: int) -> bool:
        """Return whether layer ``index`` has a sliding window: in others nothing turns."""
        return reader.sliding_window(index) is not None
