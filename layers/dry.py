"""A network without its products: what shows that a network fits together before it has weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.moe import Experts
from mszoo.layers.seam import (
    LinearBase,
    QuantizeMethodBase,
    RoutedExperts,
    UnquantizedEmbeddingMethod,
    VocabParallelEmbedding,
    routed_experts_of,
)

import mindspore as ms


def obstacle(network: torch.nn.Module) -> str | None:
    """Return why :func:`without_products` doesn't fit a network, or None."""
    ours = {
        id(routed_experts_of(module.fused)[0]) for module in network.modules() if isinstance(module, Experts)
    }
    if any(isinstance(module, RoutedExperts) and id(module) not in ours for module in network.modules()):
        return "it calls vLLM's layer of experts itself, which computes only on loaded weights"
    return None


def multiplies_by_vllm(network: torch.nn.Module) -> bool:
    """Return whether a network has any of vLLM's linear layers; one without multiplies by itself."""
    return any(isinstance(module, LinearBase) for module in network.modules())


@contextmanager
def without_products(network: torch.nn.Module) -> Iterator[None]:
    """Inside, vLLM's linear and embedding layers and experts give zeros of the shape that they would give.

    What multiplies packs or repacks the weights after they are loaded, so it can't run before; and a product would
    read all of a model's weights. That inputs have the width that a weight has is checked, the rest of a layer
    runs as ever, collective operations included.

    Args:
        network: one without an :func:`obstacle`.
    """
    restore: list[Callable[[], None]] = []
    for module in network.modules():
        if isinstance(module, VocabParallelEmbedding):
            restore.append(_replace(module, "quant_method", _NoLookup()))
        elif isinstance(module, LinearBase):
            restore.append(_replace(module, "quant_method", _NoProduct()))
        elif isinstance(module, Experts):
            restore.append(_replace(module, "forward", _no_experts(module)))
    try:
        yield
    finally:
        for put_back in restore:
            put_back()


class _NoProduct(QuantizeMethodBase):
    def create_weights(self, layer: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("the layer has its weights")

    def apply(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        del bias
        _check_width(x, getattr(layer, "input_size_per_partition", layer.input_size))
        width = getattr(layer, "output_size_per_partition", layer.output_size)
        return x.new_zeros(*x.shape[:-1], width)


class _NoLookup(UnquantizedEmbeddingMethod):
    def apply(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        del bias
        _check_width(x, layer.embedding_dim)
        return x.new_zeros(*x.shape[:-1], layer.num_embeddings_per_partition)

    def embedding(self, layer: torch.nn.Module, input_: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*input_.shape, layer.embedding_dim, dtype=layer.params_dtype, device=input_.device)


def _no_experts(experts: Experts) -> Callable[[ms.Tensor], ms.Tensor]:
    def forward(x: ms.Tensor) -> ms.Tensor:
        hidden_states = to_torch(x)
        _check_width(hidden_states, experts.hidden_size)
        experts.choose(hidden_states)
        return to_mindspore(torch.zeros_like(hidden_states))

    return forward


def _check_width(x: torch.Tensor, width: int) -> None:
    if x.shape[-1] != width:
        raise ValueError(f"a product of {list(x.shape)} with a weight for inputs of width {width}")


def _replace(module: torch.nn.Module, name: str, value: Any) -> Callable[[], None]:
    """Set an attribute of one module, past torch's registration, and return what puts the former one back."""
    own = module.__dict__
    had, before = name in own, own.get(name)
    own[name] = value

    def put_back() -> None:
        if had:
            own[name] = before
        else:
            del own[name]

    return put_back
