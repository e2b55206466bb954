"""What encoders compute whose config only their publisher's code reads, in plain torch.

Written from that code, for the tests, as :mod:`mszoo.adapters.native.references` is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from mszoo.adapters.native.references import Tensors, angles, turn_halves


def new(config: Mapping[str, Any], tensors: Mapping[str, Any], tokens: list[int]) -> torch.Tensor:
    """Return what Alibaba's ``new-impl`` makes of token ids: hidden states [T, hidden], or scores of classes."""
    get = Tensors(tensors)
    architecture, heads = config["architectures"][0], config["num_attention_heads"]
    has_head = not architecture.endswith("Model")
    root = "new." if has_head else ""

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(
            x, x.shape[-1:], get(f"{name}.weight"), get(f"{name}.bias"), config["layer_norm_eps"]
        )

    size = config["hidden_size"] // heads
    scaling, theta, divisor = config.get("rope_scaling"), config["rope_theta"], 1.0
    if scaling:
        assert scaling["type"] == "ntk"
        theta, divisor = theta * scaling["factor"], scaling["factor"] ** (2 / size)
    angle = angles(len(tokens), size, theta, divisor)
    x = get(f"{root}embeddings.word_embeddings.weight")[tokens]
    if config["type_vocab_size"]:
        x = x + get(f"{root}embeddings.token_type_embeddings.weight")[0]
    x = norm(f"{root}embeddings.LayerNorm", x)
    for index in range(config["num_hidden_layers"]):
        name = f"{root}encoder.layer.{index}"
        query, key, value = (
            part.unflatten(-1, (heads, size))
            for part in get.linear(f"{name}.attention.qkv_proj", x, bias=True).chunk(3, -1)
        )
        scores = torch.einsum("qhd,khd->hqk", turn_halves(query, angle), turn_halves(key, angle)) * size**-0.5
        seen = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).flatten(1)
        x = norm(f"{name}.attn_ln", x + get.linear(f"{name}.attention.o_proj", seen, bias=True))
        up, gate = get.linear(f"{name}.mlp.up_gate_proj", x).chunk(2, -1)
        x = norm(
            f"{name}.mlp_ln", x + get.linear(f"{name}.mlp.down_proj", functional.gelu(gate) * up, bias=True)
        )
    if architecture.endswith("ForSequenceClassification"):
        x = get.linear("new.pooler.dense", x[0], bias=True).tanh()
    if has_head:
        x = get.linear("classifier", x, bias=True)
    get.all_were_read()
    return x


def jina(config: Mapping[str, Any], tensors: Mapping[str, Any], tokens: list[int]) -> torch.Tensor:
    """Return what Jina's XLM-R makes of token ids with its last task's adapter: hidden states [T, hidden]."""
    get, heads, scale = (
        Tensors(tensors),
        config["num_attention_heads"],
        config["lora_alpha"] / config["lora_rank"],
    )
    size = config["hidden_size"] // heads

    def weight(name: str) -> torch.Tensor:
        parts = (
            get(f"{name}.parametrizations.weight.{part}") for part in ("original", "0.lora_A", "0.lora_B")
        )
        whole, lora_a, lora_b = parts
        is_table = "embeddings" in name
        return whole + scale * (lora_a[-1] @ lora_b[-1] if is_table else lora_b[-1] @ lora_a[-1])

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ weight(name).T + get(f"{name}.bias")

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(
            x, x.shape[-1:], get(f"{name}.weight"), get(f"{name}.bias"), config["layer_norm_eps"]
        )

    angle = angles(len(tokens), size, config["rotary_emb_base"])
    x = weight("roberta.embeddings.word_embeddings")[tokens]
    x = norm("roberta.emb_ln", x + weight("roberta.embeddings.token_type_embeddings")[0])
    for index in range(config["num_hidden_layers"]):
        name = f"roberta.encoder.layers.{index}"
        query, key, value = (
            part.unflatten(-1, (heads, size)) for part in linear(f"{name}.mixer.Wqkv", x).chunk(3, -1)
        )
        scores = torch.einsum("qhd,khd->hqk", turn_halves(query, angle), turn_halves(key, angle)) * size**-0.5
        seen = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).flatten(1)
        x = norm(f"{name}.norm1", x + linear(f"{name}.mixer.out_proj", seen))
        x = norm(
            f"{name}.norm2", x + linear(f"{name}.mlp.fc2", functional.gelu(linear(f"{name}.mlp.fc1", x)))
        )
    get.all_were_read()
    return x
