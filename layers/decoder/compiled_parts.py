"""What compiled layers get of a layer: its weights, sizes and words, by the names that kernels/csrc gives them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from mszoo.kernels import compiled
from mszoo.layers.norm import GemmaRMSNorm, LayerNorm, Norm


class Parts:
    """Collects them.

    Attributes:
        tensors, integers, floats, words: what a compiled layer is made of; see the sources in kernels/csrc.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.integers: dict[str, int] = {}
        self.floats: dict[str, float] = {}
        self.words: dict[str, str] = {}
        self._packed: list[tuple[Any, Any]] = []

    def add_norms(self, norms: Iterable[tuple[str, Norm | None]]) -> None:
        """Add norms by their names; None stands for none."""
        for name, norm in norms:
            if norm is not None:
                self.words[name], weight, bias = _norm(norm)
                self.floats[f"{name}.eps"] = norm.eps
                self.tensors |= {
                    f"{name}.{leaf}": tensor
                    for leaf, tensor in (("weight", weight), ("bias", bias))
                    if tensor is not None
                }

    def add_projections(self, projections: Iterable[tuple[str, Any]]) -> None:
        """Add vLLM's linear layers by their names, each with a packed weight."""
        for name, projection in projections:
            handler = projection.quant_method.handler
            self._packed.append((projection.quant_method, handler))
            self.tensors[f"{name}.handler"], self.integers[f"{name}.width"] = (
                handler.handler_tensor,
                handler.n,
            )
            if projection.bias is not None:
                self.tensors[f"{name}.bias"] = projection.bias.data

    def make(self, name: str) -> Any:
        """Make the compiled class of this name of them; see :func:`mszoo.kernels.compiled.make`."""
        return compiled.make(name, self.tensors, self.integers, self.floats, self.words)

    @property
    def outdated(self) -> bool:
        """Whether a weight reload packed the weights anew, and freed what the compiled layer points to."""
        for method, packed in self._packed:  # noqa: SIM110  any() with a generator takes three times as long
            if method.handler is not packed:
                return True
        return False


def _norm(norm: Norm) -> tuple[str, torch.Tensor | None, torch.Tensor | None]:
    """Return kind, weight and bias of a norm as the compiled layer takes them."""
    if isinstance(norm, LayerNorm):
        return "layer_norm", norm.scale(), norm.bias
    if isinstance(norm, GemmaRMSNorm):
        return "gemma_rms_norm", norm.weight.data.float() + 1.0, None
    return "rms_norm", norm.weight.data, None
