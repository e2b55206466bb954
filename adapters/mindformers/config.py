"""From a Hugging Face config to the suite's: every field is honoured, known to be harmless, or refused by name.

The suite drops what it doesn't know without a word, and fills the gaps with defaults of its own (a rotary base of
10000, yarn where DeepSeek gives no rope type). So each field that an architecture reads is named here together with
the attribute of the suite's ``TransformerConfig`` where it must arrive, and the finished network is checked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mszoo.adapters import described
from mszoo.models.config import ConfigReader
from mszoo.models.config_keys import reference_of
from mszoo.registry.errors import RefusalError

_DENSE = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "ffn_hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_query_groups",
    "rms_norm_eps": "layernorm_epsilon",
    "hidden_act": "hidden_act",
}
_HEADS = {"head_dim": "kv_channels", "attention_bias": "add_qkv_bias"}
_EXPERTS = {
    "num_experts_per_tok": "moe_router_topk",
    "moe_intermediate_size": "moe_ffn_hidden_size",
    "norm_topk_prob": "norm_topk_prob",
}
_GROUPED_EXPERTS = _EXPERTS | {
    "n_routed_experts": "num_moe_experts",
    "n_shared_experts": "shared_expert_num",
    "n_group": "moe_router_num_groups",
    "topk_group": "moe_router_group_topk",
    "routed_scaling_factor": "moe_router_topk_scaling_factor",
    "first_k_dense_replace": "first_k_dense_replace",
}
_LATENT = {
    "q_lora_rank": "q_lora_rank",
    "kv_lora_rank": "kv_lora_rank",
    "qk_nope_head_dim": "qk_head_dim",
    "qk_rope_head_dim": "qk_pos_emb_head_dim",
    "v_head_dim": "v_head_dim",
}
#: Yarn's parameters, as the suite calls them.
_YARN = ("rotary_scaling_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")


@dataclass(frozen=True)
class Architecture:
    """How the suite builds one architecture.

    Attributes:
        config: the suite's config class, as ``module:Class``.
        network: its inference network, as ``module:Class``.
        fields: by name in the Hugging Face config, the attribute of the suite's ``TransformerConfig``.
        fixed: the suite's fields that Hugging Face's config lacks, and the architecture fixes.
        must_be: fields that the suite ignores, and the values for which that changes nothing.
        ignored: fields that change nothing for a served model.
        partial_rotary: whether the suite rotates a part of each head.
        default_theta: the rotary base where the config gives none; None where it must.
        yarn: whether the suite's yarn is Hugging Face's, given all its parameters.
        check: more conditions; raises RefusalError.
        described_as: the architecture that says what its layers are, where it isn't its own.
    """

    config: str
    network: str
    fields: Mapping[str, str]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    must_be: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    partial_rotary: bool = False
    default_theta: float | None = None
    yarn: bool = False
    check: Callable[[ConfigReader, str, int], None] = lambda _reader, _who, _length: None
    described_as: str = ""

    @property
    def is_latent(self) -> bool:
        """Whether it attends on a latent cache."""
        return "kv_lora_rank" in self.fields


def suite_config(
    architecture: Architecture, config: Any, who: str, *, dtype: str, max_model_len: int
) -> dict[str, Any]:
    """Return the arguments of the suite's config class.

    Args:
        architecture: the model's.
        config: the Hugging Face config.
        who: the adapter's name, for messages.
        dtype: what the model computes in, such as "float32".
        max_model_len: the longest sequence that vLLM serves.

    Raises:
        RefusalError: naming the field that the suite would drop, or compute otherwise than Hugging Face does.
    """
    # TeleChat's configs may call themselves Llama's; transformers has no such model.
    reader = ConfigReader(config, who, reference="" if "TeleChat" in who else reference_of(config))
    reader.check_types()
    values = {name: _read(reader, name) for name in architecture.fields}
    for name, allowed in architecture.must_be.items():
        reader.must_be(name, *allowed)
    reader.must_attend(causally=True)
    reader.ignore("max_position_embeddings", *architecture.ignored)
    _refuse_windows(reader)
    architecture.check(reader, who, max_model_len)
    rope = _rope(reader, who, architecture)
    tied = reader.flag("tie_word_embeddings")
    reader.refuse_unread()
    own = {
        "max_position_embeddings": max_model_len,  # the length of the suite's table of cosines, nothing else
        "tie_word_embeddings": tied,
        "compute_dtype": dtype,
        # Of the suite's own parameters and tables, which all give their places to vLLM's: MindSpore can't make
        # bfloat16 ones under numpy 2.
        "params_dtype": "float32",
        "layernorm_compute_dtype": "float32",
        "rotary_dtype": "float32",
    }
    return values | dict(architecture.fixed) | own | rope


def check_arrived(architecture: Architecture, values: Mapping[str, Any], built: Any, who: str) -> None:
    """Check that the suite's network has the values that it was given.

    Args:
        architecture: the model's.
        values: :func:`suite_config`.
        built: the network's ``TransformerConfig``.
        who: the suite and its version, for messages.

    Raises:
        RefusalError: naming the field that got lost.
    """
    arrivals = dict(architecture.fields) | {"rope_theta": "rotary_base"}
    if architecture.partial_rotary:
        arrivals["partial_rotary_factor"] = "partial_rotary_factor"
    if values.get("rope_type") == "yarn":
        names = ("rope_type", "position_embedding_type", *_YARN, "max_position_embeddings")
        arrivals |= {name: name for name in names}
    for name, attribute in arrivals.items():
        arrived = getattr(built, attribute, None)
        if arrived != values[name]:
            raise RefusalError(
                who,
                f"config.json says {name}={values[name]!r}, and its network has {attribute}={arrived!r}",
                "Serve the model with another implementation, or another version of the suite",
            )


#: Fields that are true or false, by what the suite takes where a config says nothing. Hugging Face's always do.
_FLAGS = {"attention_bias": False, "norm_topk_prob": True, "use_qk_norm": False}


def _read(reader: ConfigReader, name: str) -> Any:
    if name in _FLAGS:
        return reader.flag(name, _FLAGS[name])
    if name == "head_dim":
        heads, hidden_size = reader.required("num_attention_heads"), reader.required("hidden_size")
        if reader.optional(name, None) is None and hidden_size % heads:
            reader.refuse("num_attention_heads", heads)
        return reader.optional(name, hidden_size // heads)
    if name == "num_key_value_heads":
        return reader.optional(name, reader.optional("num_attention_heads", reader.optional("n_head", None)))
    if name == "q_lora_rank":  # none: queries of full rank
        return reader.optional(name, None)
    if name == "num_experts":  # transformers writes one of the two
        return reader.optional("num_local_experts", None) or reader.required(name)
    return reader.required(name)


def _refuse_windows(reader: ConfigReader) -> None:
    """Refuse layers with a sliding window: the suite attends to everything."""
    types = reader.optional("layer_types", None) if reader.is_computed_with("layer_types") else None
    window = reader.optional("sliding_window", None)
    if types is None and window is not None and reader.flag("use_sliding_window", True):
        reader.refuse("sliding_window", window)
    if types is not None and not (
        isinstance(types, (list, tuple)) and all(one == "full_attention" for one in types)
    ):
        reader.refuse("layer_types", types)


def _rope(reader: ConfigReader, who: str, architecture: Architecture) -> dict[str, Any]:
    """Return the rotary embedding's fields."""
    given = reader.optional("rope_parameters", None) or {}
    theta = reader.optional("rope_theta", architecture.default_theta)
    if isinstance(given, Mapping) and theta is not None:
        given = {"rope_theta": theta} | {name: value for name, value in given.items() if value is not None}
    rope = reader.rope(given)
    kind, found = rope.pop("rope_type"), {"rope_theta": rope.pop("rope_theta")}
    part = rope.pop("partial_rotary_factor", reader.optional("partial_rotary_factor", 1.0))
    if architecture.partial_rotary:
        found["partial_rotary_factor"] = part
    elif part != 1.0:
        reader.refuse("partial_rotary_factor", part)
    if kind == "yarn" and architecture.yarn:
        found |= _yarn(rope, who)
    elif kind != "default":
        raise RefusalError(
            who,
            f"config.json says rope_type={kind!r}, which mindformers computes with other defaults than "
            "Hugging Face",
            "Serve the model with another implementation",
        )
    for name, value in rope.items():
        if (name, value) != ("truncate", True):  # what both sides do where nothing is said
            reader.refuse(f"rope_parameters.{name}", value)
    return found


def _yarn(rope: dict[str, Any], who: str) -> dict[str, Any]:
    """Take yarn's parameters out of ``rope``: all of them, since the two sides' defaults differ."""
    names = {"factor": "rotary_scaling_factor", "original_max_position_embeddings": "max_position_embeddings"}
    names |= {name: name for name in _YARN[1:]}
    found = {theirs: rope.pop(ours, None) for ours, theirs in names.items()}
    missing = [ours for ours, theirs in names.items() if not found[theirs]]
    # The suite scales the scores by mscale, Hugging Face by mscale_all_dim.
    if missing or found["mscale"] != found["mscale_all_dim"]:
        what = f"without {', '.join(missing)}" if missing else "with mscale other than mscale_all_dim"
        raise RefusalError(
            who,
            f"config.json says rope_type='yarn' {what}, which mindformers computes otherwise than Hugging Face",
            "Serve the model with another implementation",
        )
    # Attention takes the first, the network's table of cosines and sines the second.
    return found | {"rope_type": "yarn", "position_embedding_type": "yarn"}


def _check_groups(reader: ConfigReader, who: str, _: int) -> None:
    """Refuse groups of experts that the suite scores by another number of experts than two."""
    groups, chosen = reader.required("n_group"), reader.required("topk_group")
    if groups > 1 and reader.required("num_experts_per_tok") // chosen != 2:
        raise RefusalError(
            who,
            f"config.json says num_experts_per_tok={reader.required('num_experts_per_tok')} and "
            f"topk_group={chosen}: mindformers scores a group by its {reader.required('num_experts_per_tok')} // "
            f"{chosen} best experts, Hugging Face by its two best",
            "Serve the model with another implementation",
        )


def _check_latent(reader: ConfigReader, who: str, length: int) -> None:
    """As :func:`_check_groups`, and refuse sizes that don't add up: the suite takes the parts."""
    _check_groups(reader, who, length)
    reader.must_be("head_dim", reader.required("qk_rope_head_dim"))


def _check_length(reader: ConfigReader, who: str, max_model_len: int) -> None:
    """Refuse lengths at which TeleChat2's rotary base would grow: the suite's doesn't."""
    trained = [reader.optional(name, None) for name in ("base_seqlen", "training_seqlen", "seq_length")]
    known = [length for length in trained if length]
    if known and max_model_len > min(known):
        raise RefusalError(
            who,
            f"the model was trained on sequences of {min(known)} tokens and rotates longer ones otherwise, which "
            f"mindformers doesn't; max_model_len is {max_model_len}",
            f"Serve with --max-model-len {min(known)}",
        )


def _names(folder: str, module: str, name: str, network: str = "") -> tuple[str, str]:
    """Return config and network of one model of the suite; ``network`` where it spells the name otherwise."""
    return (
        f"mindformers.models.{folder}.configuration_{module}:{name}Config",
        f"mindformers.models.{folder}.modeling_{module}_infer:Inference{network or name}ForCausalLM",
    )


#: By the name that Hugging Face's config.json gives it.
ARCHITECTURES: dict[str, Architecture] = {
    "Qwen2ForCausalLM": Architecture(
        *_names("qwen2", "qwen2", "Qwen2"),
        fields=_DENSE | {"head_dim": "kv_channels"},
        fixed={"attention_bias": True},
    ),
    "Qwen3ForCausalLM": Architecture(
        *_names("qwen3", "qwen3", "Qwen3"),
        fields=_DENSE | _HEADS,
        must_be={"attention_bias": (False,)},  # the suite has no bias for the output projection
    ),
    "Qwen3MoeForCausalLM": Architecture(
        *_names("qwen3_moe", "qwen3_moe", "Qwen3Moe"),
        fields=_DENSE | _HEADS | _EXPERTS | {"num_experts": "num_moe_experts"},
        must_be={"attention_bias": (False,), "mlp_only_layers": ([], ()), "decoder_sparse_step": (1,)},
    ),
    "Glm4ForCausalLM": Architecture(
        *_names("glm4", "glm4", "Glm4"), fields=_DENSE | _HEADS, partial_rotary=True
    ),
    "Glm4MoeForCausalLM": Architecture(
        *_names("glm4_moe", "glm4_moe", "Glm4Moe"),
        fields=_DENSE | _HEADS | _GROUPED_EXPERTS | {"use_qk_norm": "qk_layernorm"},
        partial_rotary=True,
        check=_check_groups,
    ),
    "DeepseekV3ForCausalLM": Architecture(
        *_names("deepseek3", "deepseek_v3", "DeepseekV3"),
        fields=_DENSE | _GROUPED_EXPERTS | _LATENT,
        fixed={"rope_type": "rope", "rotary_scaling_factor": 1.0, "moe_router_fusion": False},
        must_be={
            "attention_bias": (False,),
            "rope_interleave": (True,),
        },
        yarn=True,
        check=_check_latent,
    ),
    "TeleChat2ForCausalLM": Architecture(
        *_names("telechat2", "telechat2", "Telechat2"),
        fields={
            "vocab_size": "vocab_size",
            "hidden_size": "hidden_size",
            "ffn_hidden_size": "ffn_hidden_size",
            "n_layer": "num_layers",
            "n_head": "num_attention_heads",
            "num_key_value_heads": "num_query_groups",
            "layer_norm_epsilon": "layernorm_epsilon",
        },
        must_be={"apply_residual_connection_post_layernorm": (False,), "embed_layernorm": (False,)},
        ignored=(
            "attention_softmax_in_fp32",
            "bias_dropout_fusion",
            "logn",
            "flash_attn",
            "masked_softmax_fusion",
            "slow_but_exact",
            "skip_bias_add",
            "skip_bias_add_qkv",
            "offset_alibi",
            "hidden_act",
        ),
        default_theta=10000.0,
        check=_check_length,
    ),
    "TeleChat3ForCausalLM": Architecture(
        *_names("telechat3", "telechat3", "TeleChat3", "Telechat3"),
        fields=_DENSE | _HEADS,
        must_be={"attention_bias": (False,), "mlp_bias": (False,)},
        described_as="LlamaForCausalLM",
    ),
}


def architecture_of(config: Any) -> tuple[str, Architecture]:
    """Return the name of the architecture that a Hugging Face config says, and how the suite builds it.

    Raises:
        RefusalError: the suite has none of that name.
    """
    name = described.architecture_of(config)
    if name not in ARCHITECTURES:
        raise RefusalError("mindformers", f"it has no {name}", f"It has {', '.join(ARCHITECTURES)}")
    return name, ARCHITECTURES[name]
