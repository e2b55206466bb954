"""Reads Hugging Face configs: every field is honoured, has no effect in the reference, or is refused by name."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NoReturn

from mszoo.models.config_keys import has_effect, keys, model_types
from mszoo.models.config_types import TYPED, is_same, wrong_type
from mszoo.models.rope import read_rope
from mszoo.registry.errors import RefusalError

#: Keys with an effect that vLLM itself honours for every model.
_OF_VLLM = frozenset({"compression_config", "dtype", "quantization_config", "torch_dtype"})

#: Of a model that the reference lacks: fields that say how it was trained or generates, and what else it returns.
_HARMLESS = frozenset(
    {
        "add_cross_attention",
        "attention_dropout",
        "classifier_dropout",
        "decoder_start_token_id",
        "embd_pdrop",
        "finetuning_task",
        "gradient_checkpointing",
        "hidden_dropout",
        "is_decoder",
        "is_encoder_decoder",
        "is_llama_config",
        "keys_to_ignore_at_inference",
        "language",
        "max_length",
        "max_window_layers",
        "num_labels",
        "output_attentions",
        "output_router_logits",
        "pad_token_id",
        "prefix",
        "pretraining_tp",
        "resid_pdrop",
        "rope_scaling",
        "rope_theta",
        "sep_token_id",
        "task_specific_params",
        "tie_encoder_decoder",
        "transformers.js_config",
        "unk_token_id",
        "unsloth_fixed",
        "unsloth_version",
        "use_sliding_window",
    }
)


class ConfigReader:
    """Hands out a config's fields and remembers which were read.

    What a field means is decided by the reference, Hugging Face's implementation of the model type. One that it
    never reads has no effect: it is refused nowhere, and :meth:`optional` hands out the default in its place.

    A field goes by Hugging Face's common name (``num_attention_heads``) or the config's own (GPT-2's ``n_head``).

    Args:
        config: a Hugging Face config.
        who: the adapter's name, for messages.
        reference: the model type of transformers whose implementation decides which fields have an effect; empty
            for a model that transformers lacks, of which any field may.
        names: the config's own names of common fields, beside those that its class tells.
    """

    def __init__(
        self, config: Any, who: str, *, reference: str = "", names: Mapping[str, str] | None = None
    ) -> None:
        self._class = type(config)
        self._fields: dict[str, Any] = config.to_dict()
        self._own_name: dict[str, str] = {**(getattr(config, "attribute_map", None) or {}), **(names or {})}
        self._read: set[str] = set()
        self.who, self._reference = who, reference if reference in model_types() else ""
        self._architecture = who.rpartition(".")[2]

    # Single fields.

    def required(self, name: str) -> Any:
        """Return a field that the config must have.

        Raises:
            RefusalError: it has none, or one of a wrong type.
        """
        value = self._value(name)
        if value is None:
            raise RefusalError(self.who, f"config.json has no {name}", f"Add {name} to config.json")
        return value

    def optional(self, name: str, default: Any) -> Any:
        """Return a field, or ``default`` where the config lacks it, holds null, or the reference never reads it.

        Raises:
            RefusalError: it is of a wrong type.
        """
        if not self.has_effect(name):
            self._take(name)
            return default
        value = self._value(name)
        return default if value is None else value

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a field that is true or false; null is false, as the reference's ``if`` takes it.

        Raises:
            RefusalError: it is neither.
        """
        if self.has_effect(name) and self._is_null(name):
            self._take(name)
            return False
        value = self.optional(name, default)
        if not isinstance(value, bool):
            self._refuse_type(name, value, "true or false")
        return value

    def has_effect(self, name: str) -> bool:
        """Return whether the reference reads a field; of a model that it lacks, any field may have an effect."""
        own = self._own_name.get(name, name)
        return not self._reference or has_effect(self._reference, own, self._architecture)

    def is_computed_with(self, name: str) -> bool:
        """Return whether the reference's network itself reads a field, not its config class alone."""
        if not self._reference:
            return True
        own = self._own_name.get(name, name)
        return self.has_effect(name) and keys(self._reference)[own].kind != "derives"

    def is_of_class(self, name: str) -> bool:
        """Return whether the config's class has a field of its own, which it may compute from others."""
        return name in self._defaults

    def ignore(self, *names: str) -> None:
        """Take note of fields that somebody else honours, or that mean something only with others."""
        for name in names:
            self._take(name)

    def must_be(self, name: str, *allowed: Any) -> None:
        """Refuse a field that has an effect and holds anything but null or ``allowed``."""
        value = self.optional(name, None)
        if value is not None and not any(is_same(value, one) for one in allowed):
            self.refuse(name, value)

    def must_attend(self, *, causally: bool) -> None:
        """Refuse a decoder that is to see later tokens, and an encoder that isn't."""
        if self.flag("is_causal", causally) != causally:
            self.refuse("is_causal", self._fields["is_causal"])

    def refuse(self, name: str, value: Any) -> NoReturn:
        """Refuse a field for its value."""
        raise RefusalError(
            self.who,
            f"config.json says {name}={value!r}, which this model doesn't implement",
            "Serve it with an implementation that does",
        )

    # All of them.

    def check_types(self) -> None:
        """Refuse sizes and numbers that are none, of all fields that have an effect.

        Raises:
            RefusalError: naming the first.
        """
        for name in TYPED:
            if self.has_effect(name):
                self._value(name, take=False)

    def refuse_unread(self) -> None:
        """Refuse a field that nobody read and that has an effect, unless it holds what the config's class has.

        Raises:
            RefusalError: naming the field.
        """
        for name, value in self._fields.items():
            if self._is_settled(name) or self._is_default(name, value):
                continue
            raise RefusalError(
                self.who,
                f"config.json says {name}={value!r}, a field that this model doesn't know",
                "If the field has no influence on inference, remove it from config.json",
            )

    def rope(self, parameters: Any) -> dict[str, Any]:
        """Return what the reference reads of one rotary embedding; see :func:`mszoo.models.rope.read_rope`."""
        return read_rope(parameters, self.who, self._reference)

    # Details.

    def _take(self, name: str) -> None:
        self._read |= {name, self._own_name.get(name, name)}

    def _value(self, name: str, *, take: bool = True) -> Any:
        own = self._own_name.get(name, name)
        if take:
            self._take(name)
        value = self._fields.get(own)
        wanted = "" if value is None else wrong_type(name, own, value)
        # transformers writes 0 for "no window" of some models, whose layers' types then say so.
        if wanted and not (own == "sliding_window" and is_same(value, 0) and self._no_layer_slides()):
            self._refuse_type(name, value, wanted)
        return value

    def _is_null(self, name: str) -> bool:
        own = self._own_name.get(name, name)
        return own in self._fields and self._fields[own] is None

    def _no_layer_slides(self) -> bool:
        types = self._fields.get("layer_types")
        return isinstance(types, list) and "sliding_attention" not in types

    def _refuse_type(self, name: str, value: Any, wanted: str) -> NoReturn:
        raise RefusalError(
            self.who, f"config.json says {name}={value!r}, which must be {wanted}", "Mend config.json"
        )

    def _is_settled(self, name: str) -> bool:
        """Return whether a field is honoured by somebody, or has no effect."""
        if name in self._read or name in _OF_VLLM:
            return True
        if not self._reference:
            # Code that nobody here knows reads null as it reads a field that isn't there.
            return self._fields[name] is None or name in _HARMLESS or not has_effect("", name)
        if not self.has_effect(name):
            return True
        key = keys(self._reference)[self._own_name.get(name, name)]
        # What the config class makes of it stands in fields of their own.
        made = ("rope_parameters",) if "_rope_param" in key.where else key.derives
        return bool(made) and all(self._is_settled(one) for one in made)

    def _is_default(self, name: str, value: Any) -> bool:
        """Return whether a value is what the config's class has without it."""
        if not self._reference and value:  # the class may be another model's
            return False
        return name in self._defaults and is_same(value, self._defaults[name])

    @functools.cached_property
    def _defaults(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self._class().to_dict()
        except Exception:  # a class that can't do without some of its fields has no defaults
            return {}
        return found
