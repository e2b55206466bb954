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
