"""What makes scores of classes of hidden states; vLLM's poolers call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from mszoo.layers.decoder.spec import NormSpec
from mszoo.layers.model import Module, add_part, current_model_config, outside_the_tree
from mszoo.registry.errors import RefusalError

#: By Hugging Face's names.
_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "relu": functional.relu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True)
class HeadSpec:
    """A head for classes: a linear layer, and before it maybe another one, an activation and a norm.

    Attributes:
        num_labels: classes.
        name: the checkpoint's, of the layer that gives the scores, inside the model.
        bias: whether it has one.
        dense_name: of the layer before it, [hidden, hidden]; empty where there is none.
        dense_bias: whether that one has one.
        activation: of what the first layer gives, by its name in Hugging Face's configs.
        norm: of what the activation gives.
        pooling: what of a sequence's hidden states it reads, "CLS", "MEAN" or "LAST"; empty where it gives the
            classes of each token.
    """

    num_labels: int
    name: str = "classifier"
    bias: bool = True
    dense_name: str = ""
    dense_bias: bool = True
    activation: str = "tanh"
    norm: NormSpec | None = None
    pooling: str = "CLS"


class ClassificationHead:
    """Computes a head, whose layers are parts of a model: [..., hidden] -> [..., classes].

    It computes by torch and in vLLM's dtype for heads, float32 where nothing else is asked for.

    Args:
        spec: what it is.
        hidden_size: width of the hidden states.
        model: gets the layers, by their names in checkpoints.

    Raises:
        RefusalError: the activation isn't known.
    """

    def __init__(self, spec: HeadSpec, hidden_size: int, model: Module) -> None:
        if spec.dense_name and spec.activation not in _ACTIVATIONS:
            raise RefusalError(
                "config.json",
                f"the head for classes has the activation {spec.activation!r}, which mszoo doesn't know",
                f"Known activations: {', '.join(_ACTIVATIONS)}",
            )
        self.spec, self._activation = spec, _ACTIVATIONS.get(spec.activation)
        self._layers: list[Module] = []
        dtype = current_model_config().head_dtype
        if spec.dense_name:
            self._add(model, spec.dense_name, _linear(hidden_size, hidden_size, spec.dense_bias, dtype))
        if spec.norm is not None:
            norm = torch.nn.LayerNorm(hidden_size, spec.norm.eps, bias=spec.norm.bias, dtype=dtype)
            self._add(model, spec.norm.name, norm.requires_grad_(requires_grad=False))
        self._add(model, spec.name, _linear(hidden_size, spec.num_labels, spec.bias, dtype))
        outside_the_tree(model, class_head=self)

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the scores before softmax or sigmoid."""
        layers = iter(self._layers)
        if self.spec.dense_name:
            assert self._activation is not None  # else it was refused
            hidden_states = self._activation(next(layers)(hidden_states))
        for layer in layers:
            hidden_states = layer(hidden_states)
        return hidden_states

    def _add(self, model: Module, name: str, layer: Module) -> None:
        add_part(model, name, layer)
        self._layers.append(layer)


def _linear(width: int, outputs: int, bias: bool, dtype: torch.dtype) -> Module:
    return torch.nn.Linear(width, outputs, bias=bias, dtype=dtype).requires_grad_(requires_grad=False)
