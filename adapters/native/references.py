"""Logits of models that transformers lacks, in plain torch, as their publishers' code computes them.

Written from that code, for the tests: slow, without a cache, and with nothing of mszoo's layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch.nn import functional

#: Gives the logits [T, vocab] of a config.json, the checkpoint's tensors by name, and token ids.
Reference: TypeAlias = Callable[[Mapping[str, Any], Mapping[str, Any], list[int]], torch.Tensor]


class Tensors:
    """A checkpoint's tensors; :meth:`all_were_read` finds those that a reference has no use for.

    Args:
        tensors: by name.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors, self._read = tensors, set[str]()

    def __call__(self, name: str) -> torch.Tensor:
        """Return one."""
        self._read.add(name)
        return self._tensors[name]

    def linear(self, name: str, x: torch.Tensor, *, bias: bool = False) -> torch.Tensor:
        """Return what a projection makes of ``x``."""
        return functional.linear(x, self(f"{name}.weight"), self(f"{name}.bias") if bias else None)

    def all_were_read(self) -> None:
        """Fail if one wasn't."""
        left = self._tensors.keys() - self._read
        assert not left, f"the reference has no {', '.join(sorted(left))}"


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Return ``x`` over its root mean square."""
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def angles(tokens: int, size: int, theta: float, divisors: Any = 1.0) -> torch.Tensor:
    """Return by how much each pair of ``size`` values turns at each position: [T, 1, size / 2]."""
    frequencies = theta ** -(torch.arange(0, size, 2).float() / size) / torch.tensor(divisors)
    return torch.outer(torch.arange(tokens).float(), frequencies)[:, None]


def turn_halves(x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Turn the halves of each head against each other: [T, heads, size]."""
    one, other = x.chunk(2, -1)
    return torch.cat([one * angle.cos() - other * angle.sin(), other * angle.cos() + one * angle.sin()], -1)


def turn_pairs(x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Turn neighbours against each other: [T, heads, size]."""
    one, other = x[..., ::2], x[..., 1::2]
    turned = [one * angle.cos() - other * angle.sin(), other * angle.cos() + one * angle.sin()]
    return torch.stack(turned, -1).flatten(-2)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return causal attention: [T, H, D], [T, G, D], [T, G, D] -> [T, H D]."""
    tokens, heads, size = query.shape
    key, value = (part.repeat_interleave(heads // part.shape[1], 1) for part in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(size)
    scores = scores.masked_fill(torch.ones(tokens, tokens, dtype=torch.bool).triu(1), -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).flatten(1)


def minicpm(config: Mapping[str, Any], weights: Mapping[str, Any], tokens: list[int]) -> torch.Tensor:
    """MiniCPM: everything that is added to the stream is scaled by depth, the logits by width."""
    w, eps, depth = Tensors(weights), config["rms_norm_eps"], config["num_hidden_layers"]
    heads, kv_heads, size = _heads(config)
    scale = config["scale_depth"] / math.sqrt(depth)
    rope = config.get("rope_scaling")
    angle = angles(len(tokens), size, config["rope_theta"], rope["short_factor"] if rope else 1.0)
    x = w("model.embed_tokens.weight")[tokens] * config["scale_emb"]
    for name in (f"model.layers.{index}" for index in range(depth)):
        y = rms_norm(x, w(f"{name}.input_layernorm.weight"), eps)
        query, key, value = (
            w.linear(f"{name}.self_attn.{part}_proj", y).unflatten(-1, (count, size))
            for part, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        )
        y = attend(turn_halves(query, angle), turn_halves(key, angle), value)
        x = x + w.linear(f"{name}.self_attn.o_proj", y) * scale
        y = rms_norm(x, w(f"{name}.post_attention_layernorm.weight"), eps)
        x = x + _gated(w, f"{name}.mlp", y) * scale
    x = rms_norm(x, w("model.norm.weight"), eps) / (config["hidden_size"] / config["dim_model_base"])
    return _logits(w, w("lm_head.weight"), x)


def exaone(config: Mapping[str, Any], weights: Mapping[str, Any], tokens: list[int]) -> torch.Tensor:
    """EXAONE 3: Llama's layers under other names; low frequencies are stretched as in Llama 3.1."""
    w, eps = Tensors(weights), config["layer_norm_epsilon"]
    heads, kv_heads, size = _heads(config)
    angle = angles(len(tokens), size, config["rope_theta"], _llama3_divisors(config, size))
    x = w("transformer.wte.weight")[tokens]
    for name in (f"transformer.h.{index}" for index in range(config["num_layers"])):
        y = rms_norm(x, w(f"{name}.ln_1.weight"), eps)
        query, key, value = (
            w.linear(f"{name}.attn.attention.{part}_proj", y).unflatten(-1, (count, size))
            for part, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        )
        y = attend(turn_halves(query, angle), turn_halves(key, angle), value)
        x = x + w.linear(f"{name}.attn.attention.out_proj", y)
        y = rms_norm(x, w(f"{name}.ln_2.weight"), eps)
        gate, up = (w.linear(f"{name}.mlp.c_fc_{part}", y) for part in (0, 1))
        x = x + w.linear(f"{name}.mlp.c_proj", functional.silu(gate) * up)
    head = "transformer.wte.weight" if config.get("tie_word_embeddings") else "lm_head.weight"
    return _logits(w, w(head), rms_norm(x, w("transformer.ln_f.weight"), eps))


def internlm2(config: Mapping[str, Any], weights: Mapping[str, Any], tokens: list[int]) -> torch.Tensor:
    """InternLM 2: the rows of ``wqkv`` are, for each key/value head, its queries, its key, its value."""
    w, eps, bias = Tensors(weights), config["rms_norm_eps"], config["bias"]
    heads, kv_heads, size = _heads(config)
    angle = angles(len(tokens), size, config.get("rope_theta", 10000.0))
    x = w("model.tok_embeddings.weight")[tokens]
    for name in (f"model.layers.{index}" for index in range(config["num_hidden_layers"])):
        y = rms_norm(x, w(f"{name}.attention_norm.weight"), eps)
        qkv = w.linear(f"{name}.attention.wqkv", y, bias=bias)
        qkv = qkv.unflatten(-1, (kv_heads, 2 + heads // kv_heads, size))
        query, key, value = qkv[:, :, :-2].flatten(1, 2), qkv[:, :, -2], qkv[:, :, -1]
        y = attend(turn_halves(query, angle), turn_halves(key, angle), value)
        x = x + w.linear(f"{name}.attention.wo", y, bias=bias)
        y = rms_norm(x, w(f"{name}.ffn_norm.weight"), eps)
        gate, up = (w.linear(f"{name}.feed_forward.{part}", y) for part in ("w1", "w3"))
        x = x + w.linear(f"{name}.feed_forward.w2", functional.silu(gate) * up)
    return _logits(w, w("output.weight"), rms_norm(x, w("model.norm.weight"), eps))


def internlm3(config: Mapping[str, Any], weights: Mapping[str, Any], tokens: list[int]) -> torch.Tensor:
    """InternLM 3: one flag gives queries, keys and values biases, another one all other projections."""
    return _like_llama(config, weights, tokens, qkv_bias=config["qkv_bias"], bias=config["bias"])


def xverse(config: Mapping[str, Any], weights: Mapping[str, Any], tokens: list[int]) -> torch.Tensor:
    """XVERSE: no biases."""
    return _like_llama(config, weights, tokens)


def orion(config: Mapping[str, Any], weights: Mapping[str, Any], tokens: list[int]) -> torch.Tensor:
    """Orion: norms subtract the mean, and have biases."""
    return _like_llama(config, weights, tokens, centred=True)


def baichuan(config: Mapping[str, Any], weights: Mapping[str, Any], tokens: list[int]) -> torch.Tensor:
    """Baichuan 7B: queries, keys and values in one projection; Baichuan 2's logits are by normalized rows."""
    w, eps = Tensors(weights), config["rms_norm_eps"]
    heads, _, size = _heads(config)
    angle = angles(len(tokens), size, 10000.0)
    x = w("model.embed_tokens.weight")[tokens]
    for name in (f"model.layers.{index}" for index in range(config["num_hidden_layers"])):
        y = rms_norm(x, w(f"{name}.input_layernorm.weight"), eps)
        qkv = w.linear(f"{name}.self_attn.W_pack", y).unflatten(-1, (3, heads, size))
        y = attend(turn_halves(qkv[:, 0], angle), turn_halves(qkv[:, 1], angle), qkv[:, 2])
        x = x + w.linear(f"{name}.self_attn.o_proj", y)
        x = x + _gated(w, f"{name}.mlp", rms_norm(x, w(f"{name}.post_attention_layernorm.weight"), eps))
    head = w("lm_head.weight")
    if config["architectures"] == ["BaichuanForCausalLM"]:
        head = functional.normalize(head)
    return _logits(w, head, rms_norm(x, w("model.norm.weight"), eps))


def telechat2(config: Mapping[str, Any], weights: Mapping[str, Any], tokens: list[int]) -> torch.Tensor:
    """TeleChat2: ``key_value`` has, for each head, its key and its value; sums have biases."""
    w, eps = Tensors(weights), config["layer_norm_epsilon"]
    heads = config["n_head"]
    kv_heads, size = config.get("num_key_value_heads") or heads, config["hidden_size"] // heads
    angle = angles(len(tokens), size, 10000.0)
    x = w("transformer.word_embeddings.weight")[tokens]
    for name in (f"transformer.h.{index}" for index in range(config["n_layer"])):
        y = rms_norm(x, w(f"{name}.input_layernorm.weight"), eps)
        query = w.linear(f"{name}.self_attention.query", y).unflatten(-1, (heads, size))
        both = w.linear(f"{name}.self_attention.key_value", y).unflatten(-1, (kv_heads, 2 * size))
        key, value = both.split(size, -1)
        y = attend(turn_halves(query, angle), turn_halves(key, angle), value)
        x = x + w.linear(f"{name}.self_attention.dense", y, bias=True)
        y = rms_norm(x, w(f"{name}.post_attention_layernorm.weight"), eps)
        gate, up = (w.linear(f"{name}.mlp.{part}_proj", y) for part in ("gate", "up"))
        x = x + w.linear(f"{name}.mlp.down_proj", functional.silu(gate) * up, bias=True)
    return _logits(w, w("lm_head.weight"), rms_norm(x, w("transformer.ln_f.weight"), eps))


def chatglm(config: Mapping[str, Any], weights: Mapping[str, Any], tokens: list[int]) -> torch.Tensor:
    """ChatGLM: the first half of each head turns, by pairs."""
    w, eps, bias = Tensors(weights), config["layernorm_epsilon"], config.get("add_bias_linear", False)
    heads, kv_heads, size = (
        config["num_attention_heads"],
        config["multi_query_group_num"],
        config["kv_channels"],
    )
    angle = angles(len(tokens), size // 2, 10000.0 * config.get("rope_ratio", 1))

    def turn(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([turn_pairs(x[..., : size // 2], angle), x[..., size // 2 :]], -1)

    x = w("transformer.embedding.word_embeddings.weight")[tokens]
    for name in (f"transformer.encoder.layers.{index}" for index in range(config["num_layers"])):
        y = rms_norm(x, w(f"{name}.input_layernorm.weight"), eps)
        qkv = w.linear(f"{name}.self_attention.query_key_value", y, bias=bias or config["add_qkv_bias"])
        query, key, value = qkv.unflatten(-1, (-1, size)).split([heads, kv_heads, kv_heads], 1)
        x = x + w.linear(f"{name}.self_attention.dense", attend(turn(query), turn(key), value), bias=bias)
        y = rms_norm(x, w(f"{name}.post_attention_layernorm.weight"), eps)
        gate, up = w.linear(f"{name}.mlp.dense_h_to_4h", y, bias=bias).chunk(2, -1)
        x = x + w.linear(f"{name}.mlp.dense_4h_to_h", functional.silu(gate) * up, bias=bias)
    x = rms_norm(x, w("transformer.encoder.final_layernorm.weight"), eps)
    return _logits(w, w("transformer.output_layer.weight"), x)


def _like_llama(
    config: Mapping[str, Any],
    weights: Mapping[str, Any],
    tokens: list[int],
    *,
    qkv_bias: bool = False,
    bias: bool = False,
    centred: bool = False,
) -> torch.Tensor:
    w, eps = Tensors(weights), config["rms_norm_eps"]
    heads, kv_heads, size = _heads(config)
    angle = angles(len(tokens), size, config.get("rope_theta", 10000.0))

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        if centred:
            return functional.layer_norm(x, x.shape[-1:], w(f"{name}.weight"), w(f"{name}.bias"), eps)
        return rms_norm(x, w(f"{name}.weight"), eps)

    x = w("model.embed_tokens.weight")[tokens]
    for name in (f"model.layers.{index}" for index in range(config["num_hidden_layers"])):
        y = norm(f"{name}.input_layernorm", x)
        query, key, value = (
            w.linear(f"{name}.self_attn.{part}_proj", y, bias=qkv_bias).unflatten(-1, (count, size))
            for part, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        )
        y = attend(turn_halves(query, angle), turn_halves(key, angle), value)
        x = x + w.linear(f"{name}.self_attn.o_proj", y, bias=bias)
        x = x + _gated(w, f"{name}.mlp", norm(f"{name}.post_attention_layernorm", x), bias=bias)
    return _logits(w, w("lm_head.weight"), norm("model.norm", x))


def _gated(w: Tensors, name: str, x: torch.Tensor, *, bias: bool = False) -> torch.Tensor:
    gate, up = (w.linear(f"{name}.{part}_proj", x, bias=bias) for part in ("gate", "up"))
    return w.linear(f"{name}.down_proj", functional.silu(gate) * up, bias=bias)


def _logits(w: Tensors, head: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    w.all_were_read()
    return functional.linear(x, head)


def _llama3_divisors(config: Mapping[str, Any], size: int) -> list[float]:
    """Return what each frequency is divided by: nothing where many turns fit, the factor where few do."""
    rope = config.get("rope_scaling")
    divisors = []
    for index in range(0, size, 2):
        wavelength = 2 * math.pi * config["rope_theta"] ** (index / size)
        if not rope:
            divisors.append(1.0)
            continue
        turns = rope["original_max_position_embeddings"] / wavelength
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        kept = min(1.0, max(0.0, (turns - low) / (high - low)))
        divisors.append(1.0 / (kept + (1.0 - kept) / rope["factor"]))
    return divisors


def _heads(config: Mapping[str, Any]) -> tuple[int, int, int]:
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    return heads, config.get("num_key_value_heads") or heads, size


#: By architecture.
REFERENCES: Mapping[str, Reference] = {
    "BaiChuanForCausalLM": baichuan,
    "BaichuanForCausalLM": baichuan,
    "ChatGLMForConditionalGeneration": chatglm,
    "ChatGLMModel": chatglm,
    "ExaoneForCausalLM": exaone,
    "InternLM2ForCausalLM": internlm2,
    "InternLM3ForCausalLM": internlm3,
    "MiniCPMForCausalLM": minicpm,
    "OrionForCausalLM": orion,
    "TeleChat2ForCausalLM": telechat2,
    "XverseForCausalLM": xverse,
}
