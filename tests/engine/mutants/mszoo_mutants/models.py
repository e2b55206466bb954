"""The wrong models: mszoo's Llama with one fault each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers import RotaryEmbedding
from mszoo.layers.attention import Attention
from mszoo.models.llama import LlamaForCausalLM

import mindspore as ms


class WrongRope(LlamaForCausalLM):
    """Layer 1 turns at another frequency."""

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        super().__init__(config, prefix=prefix)
        rope = dict(config.rope_parameters) | {"rope_theta": 9000.0}
        self.model.layers[1].self_attn.rotary_emb = RotaryEmbedding(
            config.head_dim,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.max_position_embeddings,
            rope,
        )


class MissingBias(LlamaForCausalLM):
    """Layer 2 forgets the bias of its output projection."""

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        loaded = super().load_weights(weights)
        self.model.layers[2].self_attn.o_proj.bias.data.zero_()
        return loaded


class WrongIn16Bits(LlamaForCausalLM):
    """In 16 bits all layers forget the bias of their query, key and value projection."""

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        loaded = super().load_weights(weights)
        for layer in self.model.layers:
            bias = layer.self_attn.qkv_proj.bias
            if bias.dtype != torch.float32:
                bias.data.zero_()
        return loaded


class TransposedWeight(LlamaForCausalLM):
    """Layer 0 loads a square weight the wrong way round."""

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        turned = "model.layers.0.self_attn.o_proj.weight"
        return super().load_weights(
            (name, tensor.t().contiguous() if name == turned else tensor) for name, tensor in weights
        )


class StaleAttention(Attention):
    """Stores a key once more in place of the next one, where several requests decode together."""

    kept: ms.Tensor | None = None

    def forward(self, qkv: ms.Tensor) -> ms.Tensor:
        tensor = to_torch(qkv)
        keys = slice(self._sizes[0], self._sizes[0] + self._sizes[1])
        fresh = tensor[:, keys] * 1  # memory of its own
        if 1 < len(tensor) <= 6:
            if self.kept is not None and self.kept.shape == fresh.shape:
                tensor[-1:, keys].mul_(0).add_(self.kept[-1:])
            self.kept = fresh
        return super().forward(qkv)


class StaleSlot(LlamaForCausalLM):
    """The last of several requests finds an old key in its newest slot."""

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        super().__init__(config, prefix=prefix)
        for layer in self.model.layers:
            layer.self_attn.attn.__class__ = StaleAttention
            layer.compiled.stop()


class PlainLinear(torch.nn.Module):
    """A projection that vLLM can't shard, quantize or give a LoRA adapter."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(outputs, inputs), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T


class PlainLayer(LlamaForCausalLM):
    """Declares LoRA, and a layer of it can't have any."""

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        super().__init__(config, prefix=prefix)
        self.model.layers[1].mlp.down_proj = PlainLinear(config.intermediate_size, config.hidden_size)


class CopyInTorch(LlamaForCausalLM):
    """Copies the hidden states in torch in every step."""

    def forward(
        self, input_ids: ms.Tensor | None, positions: ms.Tensor, inputs_embeds: ms.Tensor | None = None
    ) -> ms.Tensor:
        return to_mindspore(to_torch(super().forward(input_ids, positions, inputs_embeds)).clone())


class CopyThroughNumpy(LlamaForCausalLM):
    """Takes the hidden states through numpy in every step."""

    def forward(
        self, input_ids: ms.Tensor | None, positions: ms.Tensor, inputs_embeds: ms.Tensor | None = None
    ) -> ms.Tensor:
        return ms.Tensor(super().forward(input_ids, positions, inputs_embeds).asnumpy())
