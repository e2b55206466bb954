"""Reads the configs of dense decoders: every field is honoured, known to be harmless, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from mszoo.registry.errors import RefusalError

#: Fields that do not change what a served model computes: training, generation defaults, bookkeeping.
_HARMLESS = frozenset(
    [
        "_name_or_path",
        "architectures",
        "model_type",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "use_cache",
        "auto_map",
        "initializer_range",
        "attention_dropout",
        "hidden_dropout",
        "embd_pdrop",
        "resid_pdrop",
        "classifier_dropout",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "sep_token_id",
        "decoder_start_token_id",
        "unk_token_id",
        "return_dict",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "id2label",
        "label2id",
        "problem_type",
        "num_labels",
        "chunk_size_feed_forward",
        "is_encoder_decoder",
        "is_decoder",
        "add_cross_attention",
        "finetuning_task",
        "task_specific_params",
        "prefix",
        "tokenizer_class",
        "gradient_checkpointing",
        "pretraining_tp",
        "is_llama_config",
        "transformers.js_config",
        "unsloth_fixed",
        "unsloth_version",
        "quantization_config",
        "compression_config",
        "_attn_implementation",
        "attn_implementation",
        "experts_implementation",
        "_commit_hash",
        "tie_encoder_decoder",
        "keys_to_ignore_at_inference",
        "max_window_layers",
        "use_sliding_window",
        "rope_theta",
        "rope_scaling",
        "max_length",
        "language",
    ]
)


@dataclass(frozen=True)
class DecoderConfig:
    """What the dense decoder needs to know; the fields carry their Hugging Face names where there is one."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_act: str
    rms_norm_eps: float
    max_position_embeddings: int
    rope_parameters: Mapping[str, Any]
    tie_word_embeddings: bool
    #: Bias of the query, key and value projections.
    qkv_bias: bool
    #: Bias of the attention's output projection.
    output_bias: bool
    mlp_bias: bool
    #: Norms of query and key heads before the rotation.
    qk_norm: bool
    #: Per layer: the sliding window, or None where the layer sees everything.
    sliding_windows: tuple[int | None, ...]
    #: Whether pairs of neighbours turn instead of halves of a head.
    interleaved_rotary: bool = False
    #: Norms of what attention and MLP return, beside those of what they get.
    sandwich_norms: bool = False


class ConfigReader:
    """Hands out a config's fields and remembers which were read.

    Args:
        config: a Hugging Face config.
        who: the adapter's name, for messages.
    """

    def __init__(self, config: Any, who: str) -> None:
        self._fields: dict[str, Any] = config.to_dict()
        self._read: set[str] = set()
        self._who = who

    def required(self, name: str) -> Any:
        """Return a field that the config must have."""
        value = self.optional(name, None)
        if value is None:
            raise RefusalError(self._who, f"config.json has no {name}", f"Add {name} to config.json")
        return value

    def optional(self, name: str, default: Any) -> Any:
        """Return a field, or ``default`` where the config lacks it or holds null."""
        self._read.add(name)
        value = self._fields.get(name)
        return default if value is None else value

    def refuse(self, name: str, value: Any) -> NoReturn:
        """Refuse a field for its value."""
        raise RefusalError(
            self._who,
            f"config.json says {name}={value!r}, which this model doesn't implement",
            "Serve it with an implementation that does",
        )

    def must_be(self, name: str, *allowed: Any) -> None:
        """Refuse a field that is there and holds anything but ``allowed``."""
        value = self.optional(name, None)
        if value is not None and value not in allowed:
            self.refuse(name, value)

    def refuse_unread(self) -> None:
        """Refuse a field that nobody read: it may change the math. Empty and false values pass."""
        for name, value in self._fields.items():
            if value and name not in self._read and name not in _HARMLESS:
                raise RefusalError(
                    self._who,
                    f"config.json says {name}={value!r}, a field that this model doesn't know",
                    "If the field has no influence on inference, remove it from config.json",
                )


def read_decoder(
    config: Any,
    who: str,
    *,
    qkv_bias: bool | None = None,
    output_bias: bool | None = None,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    interleaved_rotary: bool = False,
    sandwich_norms: bool = False,
    unused: tuple[str, ...] = (),
) -> DecoderConfig:
    """Read the config of a Llama-like decoder.

    Args:
        config: the Hugging Face config.
        who: the adapter's name, for messages.
        qkv_bias, output_bias: the architecture's own; None takes the config's ``attention_bias``.
        mlp_bias: whether the architecture reads ``mlp_bias``.
        qk_norm, interleaved_rotary, sandwich_norms: whether the architecture has them.
        unused: fields that mean something only with values of others that are refused.

    Raises:
        RefusalError: naming the field that can't be honoured.
    """
    reader = ConfigReader(config, who)
    layers, heads = reader.required("num_hidden_layers"), reader.required("num_attention_heads")
    hidden_size = reader.required("hidden_size")
    has_attention_bias = (
        bool(reader.optional("attention_bias", False)) if None in (qkv_bias, output_bias) else False
    )
    reader.must_be("is_causal", True)
    for name in unused:
        reader.optional(name, None)
    decoder = DecoderConfig(
        vocab_size=reader.required("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=reader.required("intermediate_size"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=reader.optional("num_key_value_heads", heads),
        head_dim=reader.optional("head_dim", hidden_size // heads),
        hidden_act=reader.required("hidden_act"),
        rms_norm_eps=reader.required("rms_norm_eps"),
        max_position_embeddings=reader.required("max_position_embeddings"),
        rope_parameters=reader.required("rope_parameters"),
        tie_word_embeddings=reader.optional("tie_word_embeddings", False),
        qkv_bias=has_attention_bias if qkv_bias is None else qkv_bias,
        output_bias=has_attention_bias if output_bias is None else output_bias,
        mlp_bias=bool(reader.optional("mlp_bias", False)) if mlp_bias else False,
        qk_norm=qk_norm,
        sliding_windows=_sliding_windows(reader, layers),
        interleaved_rotary=interleaved_rotary,
        sandwich_norms=sandwich_norms,
    )
    if "rope_theta" not in decoder.rope_parameters:
        raise RefusalError(who, "config.json gives no rope_theta", "Add rope_theta to config.json")
    reader.refuse_unread()
    return decoder


def _sliding_windows(reader: ConfigReader, layers: int) -> tuple[int | None, ...]:
    window = reader.optional("sliding_window", None)
    types = reader.optional("layer_types", None)
    if types is None:
        return (window,) * layers
    unknown = sorted(set(types) - {"full_attention", "sliding_attention"})
    if unknown:
        reader.refuse("layer_types", unknown)
    return tuple(window if layer == "sliding_attention" else None for layer in types)
