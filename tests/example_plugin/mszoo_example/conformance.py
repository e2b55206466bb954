"""How mszoo's conformance tests this package: with the model written once more, in torch, as the reference."""

from __future__ import annotations

from typing import Any

from mszoo.conformance import ModelConformance


class TestExample(ModelConformance):
    """The standard tests; transformers doesn't have this architecture."""

    architecture = "example.ExampleForCausalLM"

    def reference(self, config: dict[str, Any], weights: dict[str, Any], tokens: list[int]) -> Any:
        """Return logits [T, vocab] of a prompt, without a KV cache."""
        from torch.nn.functional import silu

        x = weights["model.embed_tokens.weight"][tokens]
        for index in range(config["num_hidden_layers"]):
            name = f"model.layers.{index}"

            def linear(y: Any, projection: str, name: str = name) -> Any:
                return y @ weights[f"{name}.{projection}.weight"].T

            y = _norm(x, weights[f"{name}.norm.weight"])
            heads = (linear(y, f"self_attn.{part}_proj") for part in "qkv")
            attention = linear(_attend(config, *heads), "self_attn.o_proj")
            mlp = linear(silu(linear(y, "mlp.gate_proj")) * linear(y, "mlp.up_proj"), "mlp.down_proj")
            x = x + config["residual_scale"] * (attention + mlp)
        return _norm(x, weights["model.norm.weight"]) @ weights["lm_head.weight"].T


def _norm(x: Any, weight: Any, eps: float = 1e-6) -> Any:
    return x * (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt() * weight


def _attend(config: dict[str, Any], query: Any, key: Any, value: Any) -> Any:
    from torch.nn.functional import scaled_dot_product_attention

    size = config["head_dim"]
    heads = [x.view(len(x), -1, size).transpose(0, 1) for x in (query, key, value)]
    query, key = (_rotate(x) for x in heads[:2])
    attended = scaled_dot_product_attention(
        query[None], key[None], heads[2][None], is_causal=True, enable_gqa=True
    )[0]
    return attended.transpose(0, 1).reshape(len(value), -1)


def _rotate(x: Any, theta: float = 10000.0) -> Any:
    import torch

    frequencies = theta ** (-torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
    angles = torch.outer(torch.arange(x.shape[1]), frequencies)
    cos, sin = angles.cos().float(), angles.sin().float()
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
