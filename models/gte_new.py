"""GTE under its publisher's names: its config's class comes with the checkpoints, and their code decides."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder.spec import RotarySpec
from mszoo.layers.encoder import EncoderForPooling, EncoderSpec
from mszoo.models.encoder_reader import EncoderReader
from mszoo.models.gte import gte_encoder

#: Fields with values that are implemented; and those of how it is computed, of training, or vLLM's.
_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu", "geglu"),  # vLLM writes the second for the first
    "layer_norm_type": ("layer_norm",),
    "logn_attention_scale": (False,),
    "position_embedding_type": ("rope",),
}
_IGNORED = """attention_probs_dropout_prob hidden_dropout_prob logn_attention_clip1 pack_qkv rope_scaling rope_theta
    rotary_kwargs partial_rotary_factor unpad_inputs use_memory_efficient_attention"""


class NewModel(EncoderForPooling):
    """GTE 1.5 and multilingual, as Alibaba's ``new-impl`` defines them."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> EncoderSpec:
        """Read a ``new`` config."""
        reader = _Reader(config, who, {})
        for name, allowed in _FIXED.items():
            reader.must_be(name, *allowed)
        reader.ignore(*_IGNORED.split())
        return gte_encoder(reader)


class NewForSequenceClassification(NewModel):
    """GTE with a head for classes of a text or a pair of texts: gte-multilingual-reranker, for one."""


class NewForTokenClassification(NewModel):
    """GTE with a head for classes of each token."""


class GteNewModel(NewModel):
    """The same by the name that vLLM has for it."""


class GteNewForSequenceClassification(NewForSequenceClassification):
    """The same by the name that vLLM has for it."""


class _Reader(EncoderReader):
    def rotary(self, index: int, is_neox_style: bool = True) -> RotarySpec:
        del index
        rope = self.rope(self.required("rope_parameters"))
        if rope.pop("partial_rotary_factor", 1.0) != 1.0 or rope.get("mixed_b") is not None:
            self.refuse("rope_parameters", self.required("rope_parameters"))
        if rope["rope_type"] == "ntk":  # another base, and all frequencies over one number
            factor = rope.get("factor") or self.refuse("rope_parameters", self.required("rope_parameters"))
            power = 2 / self.head_size_of_equal_shares()
            rope |= {
                "rope_type": "linear",
                "rope_theta": rope["rope_theta"] * factor,
                "factor": factor**power,
            }
        return RotarySpec(rope, self.required("max_position_embeddings"), is_neox_style)
