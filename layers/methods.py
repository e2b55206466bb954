"""Who multiplies: the method objects that vLLM's linear and embedding layers delegate to.

With the ``cpu`` kernel set they are vLLM's own (packed or quantized weights). With the ``mindspore`` set they
are the ones here, which leave the weight as it was loaded and compute on a view of it.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.logger import init_logger
from vllm.model_executor.layers.linear import (
    LinearBase,
    UnquantizedLinearMethod,
    register_weight_loader_v2_supported_method,
)
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import (
    UnquantizedEmbeddingMethod,
    VocabParallelEmbedding,
)

from mszoo.kernels import dispatch  # isort: skip
from mszoo.kernels.exchange import ParameterView, to_mindspore, to_torch  # isort: skip

logger = init_logger("vllm.mszoo.layers")


def quant_config() -> QuantizationConfig | None:
    """Return the quantization config for a layer of the model that is being built: it chooses the methods."""
    checkpoint: QuantizationConfig | None = get_current_vllm_config().quant_config
    if dispatch.current().set_of("linear") != "mindspore":
        return checkpoint
    if checkpoint is not None:
        logger.warning_once(
            "mszoo: vLLM's kernels multiply the checkpoint's %s weights: MindSpore has none for them",
            checkpoint.get_name(),
        )
        return checkpoint
    return _MindSporeMethods()


class _MindSporeProduct:
    """``x @ weight.T + bias`` by MindSpore, on a weight that stays as it was loaded."""

    def __init__(self) -> None:
        super().__init__()
        self._linear = dispatch.current().function("linear")
        self._weight, self._bias = ParameterView(), ParameterView()

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Keep the weight: vLLM's own method packs it for oneDNN and frees the raw one."""

    def apply(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the product: [T, in] -> [T, out]."""
        y = self._linear(
            to_mindspore(x), self._weight.of(layer.weight), None if bias is None else self._bias.of(bias)
        )
        return to_torch(y)


@register_weight_loader_v2_supported_method
class MindSporeLinearMethod(_MindSporeProduct, UnquantizedLinearMethod):
    """vLLM's unquantized linear method with MindSpore's product."""


class MindSporeEmbeddingMethod(_MindSporeProduct, UnquantizedEmbeddingMethod):
    """vLLM's unquantized embedding method with MindSpore's look-up, and its product for the logits."""

    def __init__(self) -> None:
        super().__init__()
        self._embedding = dispatch.current().function("embedding")

    def embedding(self, layer: torch.nn.Module, input_: torch.Tensor) -> torch.Tensor:
        """Return the rows of the weight that ``input_`` names: [T] -> [T, hidden]."""
        return to_torch(self._embedding(to_mindspore(input_), self._weight.of(layer.weight)))


class _MindSporeMethods(QuantizationConfig):
    """Gives vLLM's layers the methods above.

    vLLM asks a quantization config for each layer's method, and nothing else decides it short of assigning to
    the layer. This one quantizes nothing.
    """

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> QuantizeMethodBase | None:
        if isinstance(layer, VocabParallelEmbedding):
            return MindSporeEmbeddingMethod()
        return MindSporeLinearMethod() if isinstance(layer, LinearBase) else None

    def get_name(self) -> Any:
        return "mszoo"

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        return [torch.float32, torch.bfloat16, torch.float16]

    @classmethod
    def get_min_capability(cls) -> int:
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> _MindSporeMethods:
        return cls()
