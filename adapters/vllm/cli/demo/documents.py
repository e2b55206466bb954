"""The JSON documents of the demo model's folder, made from the metadata of its GGUF file.

All functions are pure. They raise KeyError, IndexError or ValueError if the metadata is not a SmolLM2 file's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CONTROL = 3  # GGUF's token type of a special token
_SPECIAL = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def documents(fields: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """All documents by file name."""
    config = model_config(fields)
    return {
        "config.json": config,
        "generation_config.json": generation_config(config),
        "tokenizer.json": tokenizer(fields),
        "tokenizer_config.json": tokenizer_config(fields),
        "special_tokens_map.json": special_tokens(fields),
    }


def model_config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`config.json` for GGUF's metadata; KeyError or ValueError if that is not a default-rope Llama's."""
    if fields["general.architecture"] != "llama":
        raise ValueError(f"architecture {fields['general.architecture']!r} instead of 'llama'")
    scaling = [name for name in fields if name.startswith("llama.rope.scaling.")]
    if scaling:
        raise ValueError(f"rope scaling is set ({scaling[0]})")
    heads, hidden = fields["llama.attention.head_count"], fields["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "dtype": "bfloat16",
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "head_dim": fields.get("llama.rope.dimension_count", hidden // heads),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": fields["llama.feed_forward_length"],
        "max_position_embeddings": fields["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": fields["llama.block_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "pretraining_tp": 1,
        # GGUF keeps float32: seven digits give back the value that was meant, 1e-05.
        "rms_norm_eps": float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.7g}"),
        "rope_parameters": {"rope_theta": float(fields["llama.rope.freq_base"]), "rope_type": "default"},
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": fields["llama.vocab_size"],
    }


def generation_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """`generation_config.json`: the token ids only, so that sampling defaults stay the server's."""
    return {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def tokenizer(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`tokenizer.json`: byte-level BPE that splits digits one by one, as SmolLM2's training did.

    ValueError if the metadata describes another kind of tokenizer.
    """
    kind = fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]
    if kind != ("gpt2", "smollm"):
        raise ValueError(f"tokenizer {kind} instead of ('gpt2', 'smollm')")
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": tokens[index], **_SPECIAL}
            for index, kind in enumerate(types)
            if kind == _CONTROL
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]],
        },
    }


def special_tokens(fields: Mapping[str, Any]) -> dict[str, str]:
    """`special_tokens_map.json`."""
    ids = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    tokens = fields["tokenizer.ggml.tokens"]
    return {f"{name}_token": tokens[fields[f"tokenizer.ggml.{key}_token_id"]] for name, key in ids.items()}


def tokenizer_config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`tokenizer_config.json`, with the chat template."""
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    return {
        **special_tokens(fields),
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(index): {"content": tokens[index], **_SPECIAL}
            for index, kind in enumerate(types)
            if kind == _CONTROL
        },
        "chat_template": fields["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields["llama.context_length"],
        # The general class keeps tokenizer.json as it is; GPT2Tokenizer would put GPT-2's digit rule in.
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
