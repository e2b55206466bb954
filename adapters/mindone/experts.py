"""Mixtures of experts of MindSpore One's families, computed by mszoo's layers."""

from __future__ import annotations

from typing import Any

import torch

from mszoo.adapters.mindone.families import Mixture
from mszoo.adapters.mindone.projections import has_bias
from mszoo.layers import Experts, Module, TopKRouter, WholeLinear
from mszoo.layers.cells import CellStays
from mszoo.layers.weights import Expected

import mindspore as ms  # isort: skip
from mszoo.kernels.exchange import to_torch  # isort: skip


def is_mixture(cell: ms.nn.Cell) -> bool:
    """Return whether what a layer has after its attention is a mixture of experts, not an MLP."""
    return hasattr(cell, "experts") or hasattr(cell, "router")


def activation_of(cell: ms.nn.Cell, mixture: Mixture) -> ms.nn.Cell:
    """Return the activation of a mixture's experts."""
    return cell.activation if mixture.stacked else cell.experts[0].act_fn


class MixtureOfExperts(Module):
    """A router, experts of which each token passes some, and shared ones where the model has them.

    Args:
        cell: the suite's mixture.
        mixture: how it is made.
        hidden_act: the activation of its experts, as Hugging Face calls it.
        shared: the shared experts.
        prefix: its name.

    Raises:
        CellStays: an expert's projection has a bias.
        RefusalError: as :class:`mszoo.layers.Experts`.
    """

    def __init__(
        self, cell: ms.nn.Cell, mixture: Mixture, hidden_act: str, shared: Module | None, prefix: str
    ) -> None:
        super().__init__()
        self._mixture = mixture
        if shared is not None:
            self.add_module(mixture.shared, shared)
        if mixture.shared_gate:
            hidden_size = getattr(cell, mixture.shared_gate).weight.shape[1]
            name = f"{prefix}.{mixture.shared_gate}"
            self.add_module(mixture.shared_gate, WholeLinear(hidden_size, 1, bias=False, prefix=name))
        self.gate = _router(cell, mixture, f"{prefix}.gate")
        hidden_size, intermediate_size = _size_of_expert(cell, mixture)
        self.experts = Experts(
            self.gate,
            hidden_size,
            intermediate_size,
            hidden_act,
            prefix=f"{prefix}.experts",
            names=mixture.experts,
            stacked=mixture.stacked,
        )

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """[T, hidden] -> [T, hidden]."""
        output = self.experts(x)
        shared = self._modules.get(self._mixture.shared)
        if shared is not None:
            beside = to_torch(shared(x))
            if self._mixture.shared_gate:
                beside = beside * to_torch(self._modules[self._mixture.shared_gate](x)).sigmoid()
            to_torch(output).add_(beside)
        return output

    def checkpoint_tensors(self, name: str) -> dict[str, Expected]:
        """See :class:`mszoo.layers.weights.HasOwnTensors`: a router that the family calls otherwise."""
        weight, bias = self.gate.weight, self.gate.e_score_correction_bias
        found = {
            f"{name}.{self._mixture.router}.weight": Expected(
                f"{name}.gate.weight", None, tuple(weight.shape)
            )
        }
        if bias is not None:
            # Ernie's has a first axis of one.
            shape = (1, len(bias)) if self._mixture.bias.startswith("moe_statics.") else tuple(bias.shape)
            parameter = f"{name}.gate.e_score_correction_bias"
            found[f"{name}.{self._mixture.bias}"] = Expected(parameter, None, shape, load=_load_flat)
        return found


def _router(cell: ms.nn.Cell, mixture: Mixture, prefix: str) -> TopKRouter:
    """Build the router with what the mixture, or its router's cell, says."""
    routers: list[Any] = [cell]
    for part in mixture.router.split("."):
        routers.append(getattr(routers[-1], part))
    num_experts, hidden_size = routers[-1].weight.shape

    def said(name: str, default: Any) -> Any:
        found = (getattr(place, name, None) for place in routers)
        return next((value for value in found if value is not None), default)

    return TopKRouter(
        hidden_size,
        num_experts,
        said("top_k", None),
        scores=mixture.scores,
        normalized=said("norm_topk_prob", True),
        scale=said("routed_scaling_factor", 1.0),
        bias=bool(mixture.bias),
        groups=said("n_group", 1),
        groups_per_token=said("topk_group", 1),
        prefix=prefix,
    )


def _size_of_expert(cell: ms.nn.Cell, mixture: Mixture) -> tuple[int, int]:
    """Return hidden and intermediate size of each expert.

    Raises:
        CellStays: a projection has a bias.
    """
    if mixture.stacked is not None:
        _, hidden_size, intermediate_size = getattr(cell, mixture.stacked[1]).weight.shape
        return hidden_size, intermediate_size
    projections = [getattr(cell.experts[0], name) for name in mixture.experts]
    if any(has_bias(layer) for layer in projections):
        raise CellStays("the projections of its experts have a bias")
    hidden_size, intermediate_size = projections[2].weight.shape
    return hidden_size, intermediate_size


def _load_flat(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> None:
    parameter.data.copy_(tensor.flatten())
