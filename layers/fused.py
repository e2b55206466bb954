"""Decoder layers run as a whole, where nothing needs their parts.

The ``cpu`` kernel set has a compiled layer (:mod:`mszoo.layers.compiled_layer`), the ``mindspore`` set a graph of
all layers (:mod:`mszoo.layers.graph_decoder`). Both compute what the layers' plain path computes, with less
interpretation between the kernels. The plain path serves wherever they can't: ops of suites, LoRA, tensor
parallelism, quantized weights, ``--enforce-eager``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from vllm.config import get_current_vllm_config
from vllm.forward_context import get_forward_context
from vllm.logger import init_logger

import mindspore as ms  # isort: skip
from mszoo.kernels import dispatch  # isort: skip
from mszoo.layers.compiled_layer import CompiledLayer  # isort: skip
from mszoo.layers.graph_decoder import GraphDecoder  # isort: skip
from mszoo.layers.norm import RMSNorm  # isort: skip
from mszoo.layers.parts import Parts  # isort: skip

logger = init_logger("vllm.mszoo.layers")


def _wanted(kernel_set: str) -> bool:
    """Return whether the model that is being built may run whole layers of this kernel set."""
    kernels, config = dispatch.current(), get_current_vllm_config()
    if kernels.base != kernel_set or kernels.device != "cpu" or config.model_config.enforce_eager:
        return False
    if config.kv_transfer_config is not None:
        logger.info_once("mszoo: decoder layers run op by op: a KV connector works between their parts")
        return False
    return True


class FusedDecoderLayer:
    """A layer of the ``cpu`` set in one call: decides once, at the first step, whether it can, and then does it.

    Args:
        parts: gives the layer's parts. Called at the first step: until then vLLM may replace some (LoRA).
        carries: whether the residual stream travels beside the layers' outputs, to be added in the next layer.
    """

    def __init__(self, parts: Callable[[], Parts], *, carries: bool = True) -> None:
        self.parts = parts
        self._carries = carries
        self._kernels = dispatch.current()
        self._wanted = _wanted("cpu")
        self._layer: CompiledLayer | None = None

    @property
    def runs_fused(self) -> bool:
        """Whether the layer runs as a whole."""
        return self._layer is not None

    def __call__(
        self,
        positions: ms.Tensor | None,
        x: ms.Tensor,
        residual: ms.Tensor | None = None,
        *,
        table: torch.Tensor | None = None,
    ) -> tuple[ms.Tensor, ms.Tensor | None] | None:
        """Run the layer: see :meth:`mszoo.models.decoder.DecoderLayer.forward`.

        Args:
            positions: rows of the table of cosines and sines, [T]; None where nothing turns.
            x: [T, hidden]; the residual stream itself where it doesn't travel beside it.
            residual: [T, hidden], or None in the first layer.
            table: cosines and sines [max, R], where the parts have none.

        Returns:
            None where the plain path has to run. ``x`` and ``residual`` are overwritten otherwise.
        """
        if not self._wanted or _is_profiling():
            return None
        if self._layer is None or self._layer.outdated:
            parts = self.parts()
            obstacle = _obstacle(parts, self._kernels) or CompiledLayer.obstacle(parts)
            self._wanted = _told(obstacle, "compiled")
            if obstacle is not None:
                return None
            self._layer = CompiledLayer(parts)
        return self._layer(positions, x, residual, self._carries, table)


class FusedDecoder:
    """All layers of the ``mindspore`` set and the last norm in one graph.

    Args:
        layers: the decoder's.
        norm: the last norm.
    """

    def __init__(self, layers: Sequence[FusedDecoderLayer], norm: RMSNorm) -> None:
        self._layers, self._norm = layers, norm
        self._kernels = dispatch.current()
        self._wanted = _wanted("mindspore")
        self._decoder: GraphDecoder | None = None

    @property
    def runs_fused(self) -> bool:
        """Whether the layers run as one graph, in the steps that a graph fits."""
        return self._decoder is not None

    def __call__(self, positions: ms.Tensor, x: ms.Tensor) -> ms.Tensor | None:
        """Run the decoder: [T], embeddings [T, hidden] -> hidden states [T, hidden].

        Returns:
            None where the plain path has to run.
        """
        if not self._wanted or _is_profiling():
            return None
        if self._decoder is None or self._decoder.outdated:
            layers = [layer.parts() for layer in self._layers]
            obstacles = (_obstacle(parts, self._kernels) for parts in layers)
            obstacle = next(filter(None, obstacles), None) or GraphDecoder.obstacle(layers)
            self._wanted = _told(obstacle, "as one graph")
            if obstacle is not None:
                return None
            self._decoder = GraphDecoder(layers, self._norm)
        return self._decoder(positions, x)


def _is_profiling() -> bool:
    """Return whether this is a step of vLLM's memory profiling, which has no KV cache."""
    return get_forward_context().attn_metadata is None


def _told(obstacle: str | None, how: str) -> bool:
    """Say once how layers run, and return whether they run so."""
    if obstacle is None:
        logger.info_once("mszoo: decoder layers run %s", how)
        return True
    logger.info_once("mszoo: decoder layers run op by op: %s", obstacle)
    return False


def _obstacle(parts: Parts, kernels: dispatch.Kernels) -> str | None:
    """Return why these parts need the plain path whatever the kernel set, or None."""
    of_suites = sorted(parts.ops & kernels.from_suites.keys())
    if of_suites:
        return ", ".join(f"{op} is run by {kernels.ops[op].who}" for op in of_suites)
    return parts.replaced()
