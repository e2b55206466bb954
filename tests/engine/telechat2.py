"""Hugging Face's Llama with the weights of a TeleChat2, which transformers lacks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_LLAMAS_NAMES = {
    r"^transformer\.word_embeddings\.": "model.embed_tokens.",
    r"^transformer\.ln_f\.": "model.norm.",
    r"^transformer\.h\.": "model.layers.",
    r"\.self_attention\.dense\.": ".self_attn.o_proj.",
    r"\.self_attention\.query\.": ".self_attn.q_proj.",
}


def telechat2_as_llama(config: Mapping[str, Any], weights: Mapping[str, Any]) -> Any:
    """Return Hugging Face's Llama with the weights of a TeleChat2; biases that TeleChat2 lacks are zero.

    Args:
        config: config.json.
        weights: torch tensors by their name in the checkpoint.
    """
    heads, width = config["n_head"], config["hidden_size"]
    kv_heads = config.get("num_key_value_heads") or heads
    size = width // heads
    tensors = {}
    for name, tensor in weights.items():
        layer, joined, _ = name.partition(".self_attention.key_value.")
        if joined:  # of each head, its key and then its value
            both = tensor.view(kv_heads, 2, size, width)
            prefix = f"model.layers.{layer.rpartition('.')[2]}.self_attn"
            tensors[f"{prefix}.k_proj.weight"] = both[:, 0].reshape(-1, width)
            tensors[f"{prefix}.v_proj.weight"] = both[:, 1].reshape(-1, width)
            continue
        renamed = name
        for theirs, llamas in _LLAMAS_NAMES.items():
            renamed = re.sub(theirs, llamas, renamed)
        tensors[renamed] = tensor
    fields = {
        "vocab_size": config["vocab_size"],
        "hidden_size": width,
        "intermediate_size": config["ffn_hidden_size"],
        "num_hidden_layers": config["n_layer"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": config["layer_norm_epsilon"],
        "attention_bias": True,
        "mlp_bias": True,
    }
    return _llama(fields, tensors)


def _llama(fields: Mapping[str, Any], weights: Mapping[str, Any]) -> Any:
    import torch

    from transformers import LlamaConfig, LlamaForCausalLM

    llama = LlamaForCausalLM(LlamaConfig(**fields, attn_implementation="eager")).eval().float()
    left = dict(weights)
    with torch.no_grad():
        for name, parameter in llama.named_parameters():
            if name in left:
                parameter.copy_(left.pop(name))
            else:
                assert name.endswith("bias"), f"the checkpoint has no {name}"
                parameter.zero_()
    assert not left, f"Llama has no {', '.join(left)}"
    return llama
