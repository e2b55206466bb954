"""A decoder layer in one call, where nothing needs its parts.

The ``cpu`` kernel set has a compiled layer (:mod:`mszoo.layers.compiled_layer`), the ``mindspore`` set graphs
(:mod:`mszoo.layers.graph_layer`). Both compute what the layer's plain path computes, with less interpretation
between the kernels. The plain path serves wherever they can't: ops of suites, LoRA, tensor parallelism, quantized
weights, ``--enforce-eager``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vllm.config import get_current_vllm_config
from vllm.forward_context import get_forward_context
from vllm.logger import init_logger

import mindspore as ms  # isort: skip
from mszoo.kernels import dispatch  # isort: skip
from mszoo.layers.compiled_layer import CompiledLayer  # isort: skip
from mszoo.layers.graph_layer import GraphLayer, GraphStep  # isort: skip
from mszoo.layers.parts import Parts  # isort: skip

logger = init_logger("vllm.mszoo.layers")

_RUNNERS: dict[str, type[CompiledLayer | GraphLayer]] = {"cpu": CompiledLayer, "mindspore": GraphLayer}


def _chosen_runner() -> type[CompiledLayer | GraphLayer] | None:
    """Return what may run the layers of the model that is being built, None for the plain path."""
    kernels, config = dispatch.current(), get_current_vllm_config()
    if config.model_config.enforce_eager or kernels.device != "cpu":
        return None
    if config.kv_transfer_config is not None:
        logger.info_once("mszoo: decoder layers run op by op: a KV connector works between their parts")
        return None
    return _RUNNERS.get(kernels.base)


class FusedDecoderLayer:
    """Decides once, at the first step, whether the layer can run as a whole, and then runs it.

    Args:
        parts: gives the layer's parts. Called at the first step: until then vLLM may replace some (LoRA).
    """

    def __init__(self, parts: Callable[[], Parts]) -> None:
        self._parts = parts
        self._kernels = dispatch.current()
        self._runner = _chosen_runner()
        self._layer: CompiledLayer | GraphLayer | None = None

    @property
    def runs_fused(self) -> bool:
        """Whether the layer runs as a whole."""
        return self._layer is not None

    def __call__(
        self, positions: ms.Tensor, x: ms.Tensor, residual: ms.Tensor | None
    ) -> tuple[ms.Tensor, ms.Tensor] | None:
        """Run the layer: see :meth:`mszoo.models.decoder.DecoderLayer.forward`.

        Returns:
            None where the plain path has to run. ``x`` and ``residual`` may be overwritten otherwise.
        """
        return self._layer(positions, x, residual) if self.ready() else None

    def ready(self) -> bool:
        """Return whether the layer runs as a whole in the step that vLLM is running; decides it at the first."""
        if self._runner is None:
            return False
        if get_forward_context().attn_metadata is None:  # vLLM's memory profiling
            return False
        if self._layer is None or self._layer.outdated:
            parts = self._parts()
            obstacle = _obstacle(parts, self._kernels) or self._runner.obstacle(parts)
            if obstacle is not None:
                self._runner = None
                logger.info_once("mszoo: decoder layers run op by op: %s", obstacle)
                return False
            logger.info_once("mszoo: decoder layers run %s", self._runner.description)
            self._layer = self._runner(parts)
        return True


def fused_step(layers: Sequence[FusedDecoderLayer]) -> GraphStep:
    """Return what begins and ends the steps of the model that is being built; ``layers`` are all of it."""
    if _chosen_runner() is not GraphLayer:
        return GraphStep(lambda: False)
    return GraphStep(lambda: all(layer.ready() for layer in layers))


def _obstacle(parts: Parts, kernels: dispatch.Kernels) -> str | None:
    """Return why these parts need the plain path whatever the kernel set, or None."""
    of_suites = sorted(parts.ops & kernels.from_suites.keys())
    if of_suites:
        return ", ".join(f"{op} is run by {kernels.ops[op].who}" for op in of_suites)
    return parts.replaced()
