"""Turns the configs of transformers 5 into what MindSpore One's code, written for 4.57, reads from them.

A field that MindSpore One would ignore is refused: it may change what the model computes.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Set
from typing import Any

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

#: By model type: fields that transformers 5 computes from others, which the model reads.
_COMPUTED: Mapping[str, Set[str]] = {"gpt_bigcode": frozenset({"num_key_value_heads"})}

#: Fields whose value MindSpore One's code need not know: training, generation, bookkeeping, and what the mapping
#: of this module or the adapter itself reads.
HARMLESS: Set[str] = frozenset(
    {
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "attention_probs_dropout_prob",
        "attn_implementation",
        "attn_pdrop",
        "auto_map",
        "bos_token_id",
        "classifier_dropout",
        "dtype",
        "embd_pdrop",
        "eos_token_id",
        "final_logit_softcapping",
        "finetuning_task",
        "hidden_dropout",
        "hidden_dropout_prob",
        "id2label",
        "initializer_range",
        "label2id",
        "layer_types",
        "logit_scale",
        "logits_scaling",
        "max_position_embeddings",
        "max_window_layers",
        "model_type",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "pad_token_id",
        "pretraining_tp",
        "quantization_config",
        "resid_pdrop",
        "return_dict",
        "rope_parameters",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "sliding_window",
        "task_specific_params",
        "tie_word_embeddings",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "use_sliding_window",
    }
)

_ROPE_OF_LAYERS = frozenset({"full_attention", "sliding_attention"})


def refuse_ignored(config: Any, mentioned: Set[str], who: str) -> None:
    """Refuse a config with a field that MindSpore One's code for it never names.

    Fields at the defaults of their class pass: the survey compared the model with Hugging Face's at those.

    Args:
        config: the Hugging Face config.
        mentioned: the names in the source of the family's modeling file.
        who: the adapter's name, for the message.

    Raises:
        RefusalError: naming the field.
    """
    defaults = type(config)().to_dict()
    aliases: dict[str, str] = getattr(config, "attribute_map", {})
    for name, value in config.to_dict().items():
        names = {name, *(alias for alias, own in aliases.items() if own == name)}
        known = names & mentioned or names & HARMLESS or name in COMMON
        known = known or name in _COMPUTED.get(config.model_type, ())
        if known or not value or value == defaults.get(name):
            continue
        raise RefusalError(
            who,
            f"config.json says {name}={value!r}, a field that MindSpore One's model doesn't know",
            "If the field has no influence on inference, remove it from config.json",
        )


def to_v4(config: Any, max_model_len: int, who: str) -> Any:
    """Return a copy of a config with the attributes that transformers 4.57 gave it; the original stays as it is.

    Args:
        config: the Hugging Face config.
        max_model_len: tokens that a sequence may have.
        who: the adapter's name, for messages.

    Raises:
        RefusalError: its rotary embedding has no counterpart in 4.57, or isn't fixed for this length.
    """
    v4 = copy.deepcopy(config)
    v4.__class__ = _v4_class(type(config))  # type: ignore[arg-type]
    fields = v4.__dict__
    fields.update(rope_fields(getattr(config, "rope_parameters", None) or {}, config, max_model_len, who))
    if getattr(config, "sliding_window", None) == 0:
        fields["sliding_window"] = None  # transformers 5 writes 0 for none
    dropped = dict(BY_MODEL_TYPE.get(config.model_type, {}))
    for name, value in {**COMMON, **dropped}.items():
        if not hasattr(v4, name):
            source = value[1:] if isinstance(value, str) and value.startswith("=") else None
            fields[name] = getattr(v4, source) if source else copy.copy(value)
    return v4


#: The rope types of transformers 4.57.
_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")


def rope_fields(rope: Mapping[str, Any], config: Any, max_model_len: int, who: str) -> dict[str, Any]:
    """Return transformers 4's fields of a rotary embedding.

    Args:
        rope: ``rope_parameters``: ``rope_type``, ``rope_theta`` and the type's own, or these by type of layer.
        config: has ``max_position_embeddings`` and ``original_max_position_embeddings``.
        max_model_len: tokens that a sequence may have.
        who: the adapter's name, for messages.

    Returns:
        ``rope_theta``, ``rope_scaling``, and where they apply ``partial_rotary_factor`` and
        ``rope_local_base_freq``.

    Raises:
        RefusalError: as of :func:`to_v4`.
    """
    found: dict[str, Any] = {}
    if any(isinstance(value, Mapping) for value in rope.values()):
        if not set(rope) <= _ROPE_OF_LAYERS:
            raise _refusal(who, f"rope_parameters for layers of {', '.join(sorted(rope))}")
        local = rope.get("sliding_attention") or {}
        if local:
            if local.get("rope_type", "default") != "default":
                raise _refusal(who, f"rope_type={local['rope_type']!r} for sliding layers")
            found["rope_local_base_freq"] = local["rope_theta"]
        rope = rope.get("full_attention") or local
    scaling = dict(rope)
    if "rope_theta" in scaling:
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
    found["v4_rope_scaling"] = None if rope_type == "default" else scaling
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
