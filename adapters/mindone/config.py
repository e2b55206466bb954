"""Turns the configs of transformers 5 into what MindSpore One's code, written for 4.57, reads from them.

What a field means is decided by transformers' own code of the model: one that has an effect there and that
MindSpore One would ignore is refused, and one that has none there is kept from MindSpore One.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Set
from typing import Any

from mszoo.models.config import ConfigReader
from mszoo.models.config_keys import reference_of
from mszoo.registry.errors import RefusalError

#: Attributes that every config had in transformers 4, and their values there.
COMMON: Mapping[str, Any] = {
    "add_cross_attention": False,
    "attention_bias": False,
    "bos_token_id": None,
    "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None,
    "eos_token_id": None,
    "is_decoder": False,
    "mlp_bias": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "pad_token_id": None,
    "partial_rotary_factor": 1.0,
    "position_embedding_type": "absolute",
    "pretraining_tp": 1,
    "pruned_heads": {},
    "sep_token_id": None,  # asked for where a prompt begins or ends with the padding token
    "tie_encoder_decoder": False,
    "torchscript": False,
    "use_cache": False,
    "use_return_dict": True,
    "use_sliding_window": False,
}

#: By model type: attributes that transformers 5 dropped or renamed, as a value or, with ``=``, another's name.
BY_MODEL_TYPE: Mapping[str, Mapping[str, Any]] = {
    "deepseek_v2": {"aux_loss_alpha": 0.001, "seq_aux": True},
    "gemma": {"hidden_activation": None},
    "gpt_neox": {"rotary_pct": "=partial_rotary_factor", "rotary_emb_base": "=rope_theta"},
    "granitemoe": {"position_embedding_type": "rope"},
    "granitemoeshared": {"position_embedding_type": "rope"},
    "modernbert-decoder": {
        "global_rope_theta": "=rope_theta",
        "local_rope_theta": "=rope_local_base_freq",
        "reference_compile": False,
    },
}

#: Fields that the adapter itself reads, whatever the family: it makes layers, head and masks with them.
_READ_HERE = (
    "clip_qkv",
    "final_logit_softcapping",
    "head_dim",
    "hidden_size",
    "layer_types",
    "logit_scale",
    "logits_scaling",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rope_parameters",
    "sliding_window",
    "tie_word_embeddings",
    "vocab_size",
)

_ROPE_OF_LAYERS = frozenset({"full_attention", "sliding_attention"})


def read(config: Any, fields: Set[str], who: str, *, causal: bool) -> ConfigReader:
    """Return a reader of a config that MindSpore One's code and the adapter honour.

    Args:
        config: the Hugging Face config.
        fields: those that the family's modeling file reads.
        who: the adapter's name, for messages.
        causal: whether the model is a decoder.

    Raises:
        RefusalError: naming a field that has an effect in transformers' code and that nobody here reads, or that is
            of a wrong type.
    """
    reader = ConfigReader(config, who, reference=reference_of(config))
    reader.check_types()
    reader.must_attend(causally=causal)
    reader.must_be("is_encoder_decoder", False)
    if not causal:
        reader.must_be("is_decoder", False)
        reader.must_be("add_cross_attention", False)
    reader.ignore(*_READ_HERE, *fields)
    reader.refuse_unread()
    heads, kv_heads = reader.required("num_attention_heads"), reader.optional("num_key_value_heads", None)
    if kv_heads is not None and heads % kv_heads:
        reader.refuse("num_key_value_heads", kv_heads)
    if reader.optional("head_dim", None) is None and reader.required("hidden_size") % heads:
        reader.refuse("num_attention_heads", heads)
    return reader


def to_v4(config: Any, reader: ConfigReader, max_model_len: int) -> Any:
    """Return a copy of a config with the attributes that transformers 4.57 gave it; the original stays as it is.

    Args:
        config: the Hugging Face config.
        reader: :func:`read`.
        max_model_len: tokens that a sequence may have.

    Raises:
        RefusalError: its rotary embedding has no counterpart in 4.57, or isn't fixed for this length.
    """
    v4 = copy.deepcopy(config)
    v4.__class__ = _v4_class(type(config))  # type: ignore[arg-type]
    fields = v4.__dict__
    for name in [name for name in config.to_dict() if name in fields and not reader.has_effect(name)]:
        if name in COMMON:
            fields[name] = copy.copy(COMMON[name])
        elif not reader.is_of_class(name):  # an older library's, or a tool's
            del fields[name]
    rope = getattr(config, "rope_parameters", None) or {}
    fields.update(rope_fields(rope, config, reader, max_model_len))
    if getattr(config, "sliding_window", None) == 0:
        fields["sliding_window"] = None  # transformers 5 writes 0 for none
    _fill(v4)
    return v4


def of_part(config: Any) -> Any:
    """Return a copy of the config of a tower or a connector with the attributes that transformers 4.57 gave it.

    What its fields mean is for whoever makes the part to know.
    """
    v4 = copy.deepcopy(config)
    _fill(v4)
    return v4


def _fill(v4: Any) -> None:
    """Give a config the attributes that transformers 5 dropped."""
    dropped = dict(BY_MODEL_TYPE.get(v4.model_type, {}))
    for name, value in {**COMMON, **dropped}.items():
        if not hasattr(v4, name):
            source = value[1:] if isinstance(value, str) and value.startswith("=") else None
            v4.__dict__[name] = getattr(v4, source) if source else copy.copy(value)


#: The rope types of transformers 4.57.
_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")


def rope_fields(
    rope: Mapping[str, Any], config: Any, reader: ConfigReader, max_model_len: int
) -> dict[str, Any]:
    """Return transformers 4's fields of a rotary embedding.

    Args:
        rope: ``rope_parameters``: ``rope_type``, ``rope_theta`` and the type's own, or these by type of layer.
        config: has ``max_position_embeddings`` and ``original_max_position_embeddings``.
        reader: knows what of it has an effect.
        max_model_len: tokens that a sequence may have.

    Returns:
        ``rope_theta``, ``rope_scaling``, and where they apply ``partial_rotary_factor`` and
        ``rope_local_base_freq``.

    Raises:
        RefusalError: as of :func:`to_v4`.
    """
    found: dict[str, Any] = {}
    who = reader.who
    if not rope or not reader.has_effect("rope_parameters"):  # positions are learned
        return {"v4_rope_scaling": None}
    if any(isinstance(value, Mapping) for value in rope.values()):
        if not set(rope) <= _ROPE_OF_LAYERS:
            raise _refusal(who, f"rope_parameters for layers of {', '.join(sorted(rope))}")
        local = rope.get("sliding_attention")
        if local:
            local = reader.rope(local)
            if local["rope_type"] != "default":
                raise _refusal(who, f"rope_type={local['rope_type']!r} for sliding layers")
            found["rope_local_base_freq"] = local["rope_theta"]
        rope = rope.get("full_attention") or local or {}
    scaling = reader.rope(rope)
    found["rope_theta"] = scaling.pop("rope_theta")
    if "partial_rotary_factor" in scaling:
        found["partial_rotary_factor"] = scaling.pop("partial_rotary_factor")
    rope_type = scaling.get("rope_type", "default")
    if rope_type not in _ROPE_TYPES:
        raise RefusalError(
            who, f"rope_type={rope_type!r} is not supported", f"Supported types: {', '.join(_ROPE_TYPES)}"
        )
    if rope_type in ("dynamic", "longrope"):
        # Both change the keys of earlier tokens when a sequence grows past a length; a cache can't follow.
        field = "max_position_embeddings" if rope_type == "dynamic" else "original_max_position_embeddings"
        limit = scaling.get(field) or getattr(config, field, None) or config.max_position_embeddings
        if max_model_len > limit:
            raise RefusalError(
                who,
                f"rope_type={rope_type!r} changes the keys of earlier tokens once a sequence passes {field}="
                f"{limit}, and max_model_len is {max_model_len}",
                f"Serve with --max-model-len {limit}",
            )
    # Older files look for its older name.
    found["v4_rope_scaling"] = None if rope_type == "default" else scaling | {"type": rope_type}
    return found


@functools.cache
def _v4_class(kind: type) -> type:
    """Return a subclass of a config class that has ``rope_scaling`` as 4.57 had it."""
    return type(
        kind.__name__,
        (kind,),
        {
            "__module__": kind.__module__,
            "model_type": kind.model_type,  # type: ignore[attr-defined]
            "rope_scaling": property(
                lambda self: self.__dict__.get("v4_rope_scaling"),
                lambda self, value: self.__dict__.update(v4_rope_scaling=value),
            ),
        },
    )


def _refusal(who: str, what: str) -> RefusalError:
    return RefusalError(
        who, f"config.json has {what}, which MindSpore One's model doesn't read", "Serve it with another one"
    )
