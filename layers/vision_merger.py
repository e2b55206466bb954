"""What makes one embedding of a square of patches by a convolution and a gated MLP (GLM-4.1V)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.activation import Activation
from mszoo.layers.decoder.build import build_norm
from mszoo.layers.decoder.mlp import MLP
from mszoo.layers.decoder.spec import MLPSpec, NormSpec
from mszoo.layers.linear import WholeLinear
from mszoo.layers.model import Module, add_part, outside_the_tree
from mszoo.layers.weights import Expected

import mindspore as ms


@dataclass(frozen=True)
class ConvolutionalMergerSpec:
    """A norm of patches, a convolution that makes one vector of each square of them, and an MLP on it.

    Attributes:
        output_size: width of the embedding.
        norm: of each patch; its name is the checkpoint's, beside the merger's.
        convolution_name: beside the merger's.
        inner_norm: of what a projection as wide as the embedding makes of the vector, before GELU.
        projection_name: of that projection.
        mlp: behind; its projections are the merger's own.
    """

    output_size: int
    norm: NormSpec
    convolution_name: str
    inner_norm: NormSpec
    projection_name: str
    mlp: MLPSpec


class SquareConvolution(WholeLinear):
    """A convolution over squares of patches, none of which overlap: [N, hidden] -> [N / unit, output].

    Args:
        hidden_size: width of a patch.
        side: patches on a side of a square; those of a square lie one behind the other, row by row.
        output_size: width of the output.
        prefix: its name, unique in the model.
    """

    def __init__(self, hidden_size: int, side: int, output_size: int, *, prefix: str) -> None:
        super().__init__(side**2 * hidden_size, output_size, bias=True, prefix=prefix)
        self._kernel = hidden_size, side, side

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """Return one vector for each square."""
        return super().forward(to_mindspore(to_torch(x).view(-1, self.input_size)))

    def checkpoint_tensors(self, name: str) -> dict[str, Expected]:
        """See :class:`mszoo.layers.weights.HasOwnTensors`."""
        weight = f"{name}.weight"
        return {weight: Expected(weight, None, (self.output_size, *self._kernel), load=_load_by_patch)}


class ConvolutionalMerger(Module):
    """What is behind the convolution: [T, output] -> [T, output].

    Args:
        spec: what it is.
        prefix: its name, unique in the model.

    Raises:
        RefusalError: there is no op for its activation.
    """

    def __init__(self, spec: ConvolutionalMergerSpec, *, prefix: str) -> None:
        super().__init__()
        self._names, width = spec, spec.output_size
        name = spec.projection_name
        add_part(self, name, WholeLinear(width, width, bias=False, prefix=f"{prefix}.{name}"))
        add_part(self, spec.inner_norm.name, build_norm(spec.inner_norm, width))
        self.act = Activation("gelu", gated=False)
        outside_the_tree(self, _mlp=MLP(spec.mlp, width, prefix=prefix, owner=self))

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """Return the embeddings."""
        projection = self.get_submodule(self._names.projection_name)
        norm = self.get_submodule(self._names.inner_norm.name)
        found: ms.Tensor = self._mlp(self.act(norm(projection(x))))
        return found


def _load_by_patch(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> None:
    by_patch = tensor.permute(0, 2, 3, 1).flatten(1)
    parameter.weight_loader(parameter, by_patch)  # type: ignore[operator]
