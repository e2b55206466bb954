"""From the config of a decoder to its spec: what the architectures have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mszoo.layers.decoder.spec import (
    AttentionSpec,
    DecoderLayerSpec,
    DecoderSpec,
    LatentAttentionSpec,
    MLPSpec,
    NormSpec,
    RotarySpec,
)
from mszoo.models.config import ConfigReader
from mszoo.models.config_types import MOST_LAYERS
from mszoo.registry.errors import RefusalError


class DecoderReader(ConfigReader):
    """Reads the parts of a decoder's spec off a Hugging Face config, by Hugging Face's common names of its fields.

    Each method takes the fields of the spec that an architecture has otherwise.

    Args:
        config: the Hugging Face config.
        who: the adapter's name, for messages.
        reference, names: as of :class:`mszoo.models.config.ConfigReader`.
    """

    def __init__(
        self, config: Any, who: str, *, reference: str = "", names: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(config, who, reference=reference, names=names)
        self.check_types()
        self.num_layers: int = self.required("num_hidden_layers")
        self.hidden_size: int = self.required("hidden_size")

    def attention(self, index: int, **changes: Any) -> AttentionSpec:
        """Return the attention of layer ``index``: its heads, rotation and sliding window."""
        heads = self.required("num_attention_heads")
        head_size = changes.pop("head_size", None) or self.optional("head_dim", self.hidden_size // heads)
        is_neox_style = changes.pop("is_neox_style", True)
        rotary = changes.pop("rotary") if "rotary" in changes else self.rotary(index, is_neox_style)
        fields = dict(changes)
        if "num_kv_heads" not in fields:
            fields["num_kv_heads"] = self.optional("num_key_value_heads", heads)
        if "sliding_window" not in fields:
            fields["sliding_window"] = self.sliding_window(index)
        if heads % fields["num_kv_heads"] or head_size < 1:
            self.refuse("num_key_value_heads", fields["num_kv_heads"])
        return AttentionSpec(heads, head_size=head_size, rotary=rotary, **fields)

    def head_size_of_equal_shares(self) -> int:
        """Return the size of heads that share out the hidden size, of a reference that has no other.

        Raises:
            RefusalError: they can't, or the config says another size.
        """
        heads = self.required("num_attention_heads")
        if self.hidden_size % heads:
            self.refuse("num_attention_heads", heads)
        size: int = self.hidden_size // heads
        self.must_be("head_dim", size)
        return size

    def rotary(self, index: int, is_neox_style: bool = True) -> RotarySpec:
        """Return the rotation of layer ``index``; a config may have one for each type of layer."""
        parameters = rope_of_layer(self.required("rope_parameters"), self.layer_types(), index)
        return RotarySpec(self.rope(parameters), self.required("max_position_embeddings"), is_neox_style)

    def sliding_window(self, index: int) -> int | None:
        """Return how many keys layer ``index`` sees, itself included; None where it sees all."""
        window: int | None = self.optional("sliding_window", None)
        types = self.layer_types()
        if types is None or not self.is_computed_with("layer_types"):
            return window
        unknown = sorted(set(types) - {"full_attention", "sliding_attention"})
        if unknown:
            self.refuse("layer_types", unknown)
        return window if types[index] == "sliding_attention" else None

    def layer_types(self) -> list[str] | None:
        """Return the type of each layer, or None where they aren't told.

        Raises:
            RefusalError: they aren't names, or too few.
        """
        types: list[str] | None = self.optional("layer_types", None)
        if types is None:
            return None
        if not isinstance(types, (list, tuple)) or not all(isinstance(one, str) for one in types):
            self.refuse("layer_types", types)
        if len(types) < self.num_layers:
            self.refuse("layer_types", types)
        return list(types)

    def mlp(self, **changes: Any) -> MLPSpec:
        """Return the MLP."""
        fields = {"intermediate_size": self.required, "hidden_act": self.required}
        return MLPSpec(**{name: read(name) for name, read in fields.items() if name not in changes} | changes)

    def gpt_mlp(self, up_name: str, down_name: str, **changes: Any) -> MLPSpec:
        """Return the MLP of GPT-2's relatives: four times as wide as the stream where nothing is said."""
        return self.mlp(
            intermediate_size=self.optional("n_inner", 4 * self.hidden_size),
            hidden_act=self.required("activation_function"),
            gated=False,
            bias=True,
            up_name=up_name,
            down_name=down_name,
            **changes,
        )

    def rms_norm(self, field: str = "rms_norm_eps") -> NormSpec:
        """Return a root mean square norm with the epsilon that ``field`` gives."""
        return NormSpec("rms_norm", self.required(field))

    def prediction_tensors(self) -> tuple[str, ...]:
        """Return the names of tensors that predict further tokens; see :func:`prediction_tensors`."""
        return prediction_tensors(self._fields, self.num_layers)

    def layer(
        self, attention: AttentionSpec | LatentAttentionSpec, mlp: Any, **others: Any
    ) -> DecoderLayerSpec:
        """Return a layer."""
        return DecoderLayerSpec(self.hidden_size, attention, mlp, **others)

    def pre_norm_layer(
        self, norm: NormSpec, attention: AttentionSpec | LatentAttentionSpec, mlp: Any
    ) -> DecoderLayerSpec:
        """Return a layer as Llama has it: a norm before attention and one before the MLP."""
        return self.layer(
            attention,
            mlp,
            norm_before_attention=norm.named("input_layernorm"),
            norm_before_mlp=norm.named("post_attention_layernorm"),
        )

    def post_norm_layer(self, norm: NormSpec, attention: AttentionSpec, mlp: Any) -> DecoderLayerSpec:
        """Return a layer as OLMo 2 has it: it norms what attention and MLP return, and nothing before."""
        return self.layer(
            attention,
            mlp,
            norm_after_attention=norm.named("post_attention_layernorm"),
            norm_after_mlp=norm.named("post_feedforward_layernorm"),
        )

    def pre_norm_decoder(
        self, norm: NormSpec, mlp: Any, attention: Callable[[int], AttentionSpec], **changes: Any
    ) -> DecoderSpec:
        """Return a decoder of :meth:`pre_norm_layer` s with one MLP; see :meth:`decoder`.

        Args:
            norm: all of its norms.
            mlp: of each layer.
            attention: gives that of an index.
            changes: other fields of the spec.
        """
        return self.decoder(lambda index: self.pre_norm_layer(norm, attention(index), mlp), norm, **changes)

    def decoder(
        self, layer: Callable[[int], DecoderLayerSpec], norm: NormSpec, **changes: Any
    ) -> DecoderSpec:
        """Return the decoder; the last thing that a config reader does.

        Args:
            layer: gives the layer of an index.
            norm: the last norm.
            changes: other fields of the spec.

        Raises:
            RefusalError: the config has a field that nobody read and that isn't known to be harmless.
        """
        layers = [layer(index) for index in range(self.num_layers)]
        if self._sees_later_tokens():
            layers = [self._seeing_later_tokens(one) for one in layers]
        fields: dict[str, Any] = {
            "vocab_size": self.required("vocab_size"),
            "hidden_size": self.hidden_size,
            "layers": tuple(layers),
            "norm": norm if norm.name else norm.named("norm"),
            "tie_word_embeddings": self.flag("tie_word_embeddings"),
        }
        self.refuse_unread()
        return DecoderSpec(**fields | changes)

    def _sees_later_tokens(self) -> bool:
        if self._reference:
            return not self.flag("is_causal", True)
        self.must_attend(causally=True)  # who knows what the publisher's code makes of it
        return False

    def _seeing_later_tokens(self, layer: DecoderLayerSpec) -> DecoderLayerSpec:
        if isinstance(layer.attention, AttentionSpec):
            window = layer.attention.sliding_window
            if window is not None:
                what = f"it says is_causal=False, and sliding_window={window} isn't served with that"
                raise RefusalError("config.json", what, "Serve the model with another implementation")
            return replace(layer, attention=replace(layer.attention, is_causal=False))
        self.refuse("is_causal", False)  # a latent cache is for causal attention


def prediction_tensors(fields: Mapping[str, Any], layers: int) -> tuple[str, ...]:
    """Return the names of tensors of layers that predict further tokens, which no model here has.

    "*" at the end of a name stands for any.

    Args:
        fields: of the config.
        layers: how many layers there are before.
    """
    named = (fields.get(name) for name in ("num_nextn_predict_layers", "num_mtp_layers", "num_mtp_modules"))
    count = next((number for number in named if isinstance(number, int) and number), 0)
    return tuple(f"model.layers.{layers + index}.*" for index in range(min(count, MOST_LAYERS)))


def rope_of_layer(
    rope_parameters: Mapping[str, Any], layer_types: Sequence[str] | None, index: int
) -> Mapping[str, Any]:
    """Return the ``rope_parameters`` of layer ``index``, of a config that may have some for each type of layer."""
    nested = isinstance(rope_parameters, Mapping) and layer_types is not None
    if nested and layer_types and set(layer_types) <= rope_parameters.keys():
        found: Mapping[str, Any] = rope_parameters[layer_types[index]]
        return found
    return rope_parameters
