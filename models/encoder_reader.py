"""From the config of an encoder to its spec: what the architectures have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mszoo.layers.decoder.spec import AttentionSpec, DecoderLayerSpec, NormSpec, PositionSpec
from mszoo.layers.encoder import EncoderSpec
from mszoo.layers.heads import HeadSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import DecoderReader

#: How the architectures that have a head for classes end: of a whole text, and of each of its tokens.
_OF_TEXTS, _OF_TOKENS = "ForSequenceClassification", "ForTokenClassification"


class EncoderReader(DecoderReader):
    """Reads the parts of an encoder's spec off a Hugging Face config, as its base class those of a decoder's.

    Args:
        config: the Hugging Face config.
        who: the adapter's name, for messages.
        names: of a config that its publisher's code decides about, whatever class it has: the publisher's names of
            common fields, where they are others. Any field may have an effect there.
    """

    def __init__(self, config: Any, who: str, names: Mapping[str, str] | None = None) -> None:
        reference = reference_of(config) if names is None else ""
        super().__init__(config, who, reference=reference, names=names)
        self._num_labels: int = config.num_labels
        self.ignore("id2label", "num_labels", "tie_word_embeddings")

    @property
    def classifies_tokens(self) -> bool:
        """Whether it gives classes of each token."""
        return self.who.endswith(_OF_TOKENS)

    def encoder_attention(self, **changes: Any) -> AttentionSpec:
        """Return attention without rotation, in which tokens see their whole sequence, with BERT's biases."""
        given: dict[str, Any] = {
            "head_size": self.head_size_of_equal_shares(),
            "num_kv_heads": self.required("num_attention_heads"),
            "rotary": None,
            "sliding_window": None,
            "qkv_bias": True,
            "o_bias": True,
            "is_causal": False,
            "name": "attention",
        }
        return self.attention(0, **given | changes)

    def positions(self, name: str, offset: int = 0) -> PositionSpec:
        """Return learned positions."""
        return PositionSpec(self.required("max_position_embeddings"), offset, name)

    def token_types(self, *, may_lack: bool = False) -> PositionSpec | None:
        """Return the embeddings of token types, by BERT's name; None where the encoder may lack and has none."""
        types = self.required("type_vocab_size")
        if not types and not may_lack:
            self.refuse("type_vocab_size", types)
        return PositionSpec(types, name="embeddings.token_type_embeddings") if types else None

    def head(self, **changes: Any) -> HeadSpec | None:
        """Return the head for classes of the architecture, or None."""
        if not self.who.endswith((_OF_TEXTS, _OF_TOKENS)):
            return None
        return HeadSpec(self._num_labels, **changes | ({"pooling": ""} if self.classifies_tokens else {}))

    def encoder(
        self, layer: Callable[[int], DecoderLayerSpec], embedding_norm: NormSpec, **others: Any
    ) -> EncoderSpec:
        """Return the encoder; the last thing that a config reader does.

        Args:
            layer: gives the layer of an index.
            embedding_norm: of the sum of embeddings.
            others: the other fields of the spec.

        Raises:
            RefusalError: the config has a field that nobody read and that isn't known to be harmless.
        """
        self.must_attend(causally=False)
        self.must_be("is_decoder", False)
        self.must_be("add_cross_attention", False)
        self.must_be("is_encoder_decoder", False)
        fields = {"layers": tuple(layer(index) for index in range(self.num_layers))} | others
        vocab_size = self.required("vocab_size")
        self.refuse_unread()
        return EncoderSpec(vocab_size, self.hidden_size, embedding_norm=embedding_norm, **fields)
