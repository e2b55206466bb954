"""Who multiplies: the method objects that vLLM's linear, embedding and expert layers delegate to.

With the ``mindspore`` kernel set, or a suite's op, they leave the weight as it was loaded and compute on a view of
it. With the ``cpu`` set they are vLLM's own (packed or quantized weights); :class:`CpuLinearMethod` differs from
vLLM's unquantized one only in that the compiled decoder layer can reach the packed weight.
"""

from __future__ import annotations

from typing import Any

import torch

from mszoo.kernels import dispatch
from mszoo.kernels.exchange import ParameterView, move_to_mindspore, to_mindspore, to_torch
from mszoo.layers.seam import (
    LinearBase,
    ParallelLMHead,
    QuantizationConfig,
    QuantizeMethodBase,
    RoutedExperts,
    UnquantizedEmbeddingMethod,
    UnquantizedFusedMoEMethod,
    UnquantizedLinearMethod,
    VocabParallelEmbedding,
    cpu_backend,
    current_platform,
    get_current_vllm_config,
    init_logger,
    register_weight_loader_v2_supported_method,
)
from mszoo.registry.errors import RefusalError

logger = init_logger("vllm.mszoo.layers")


def quant_config() -> QuantizationConfig | None:
    """Return the quantization config for a layer of the model that is being built: it chooses the methods.

    Raises:
        RefusalError: the checkpoint is quantized, and this isn't a CPU.
    """
    checkpoint: QuantizationConfig | None = get_current_vllm_config().quant_config
    kernels = dispatch.current()
    product_by_vllm, lookup_by_vllm = kernels.by_vllm("linear"), kernels.by_vllm("embedding")
    if checkpoint is not None:
        if kernels.device != "cpu":
            # vllm-ascend's methods want tensors that no checkpoint of the format has (weight_offset).
            raise RefusalError(
                "mszoo.layers",
                f"takes no checkpoint with {checkpoint.get_name()} weights on {kernels.device.upper()}",
                "Serve an unquantized one",
            )
        if not (product_by_vllm and lookup_by_vllm):
            logger.warning_once(
                "mszoo: vLLM's kernels multiply the checkpoint's %s weights: MindSpore has none for them",
                checkpoint.get_name(),
            )
        return checkpoint
    return _Methods(
        CpuLinearMethod if product_by_vllm else MindSporeLinearMethod,
        CpuTableMethod if lookup_by_vllm else MindSporeTableMethod,
        UnquantizedEmbeddingMethod if product_by_vllm else MindSporeHeadMethod,
        UnquantizedFusedMoEMethod if product_by_vllm else MindSporeExpertsMethod,
    )


def _graph_of(op: str) -> Any:
    """Return what runs ``op`` as a graph of its own in the model that is being built; None where nothing does."""
    kernels = dispatch.current()
    own = kernels.base == "mindspore" and kernels.device == "cpu" and kernels.ops[op].builtin
    if not own or get_current_vllm_config().model_config.enforce_eager:
        return None
    from mszoo.kernels import op_graphs  # on a CPU alone: with it comes the set's own module

    return getattr(op_graphs, op)


class _MindSporeProduct:
    """``x @ weight.T + bias`` by MindSpore, on a weight that stays as it was loaded."""

    def __init__(self) -> None:
        super().__init__()
        self._linear = dispatch.current().function("linear")
        self._weight, self._bias = ParameterView(), ParameterView()

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Keep the weight, in MindSpore's memory: vLLM's own method packs it for oneDNN and frees the raw one."""
        move_to_mindspore(layer.weight)

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


class MindSporeHeadMethod(_MindSporeProduct, UnquantizedEmbeddingMethod):
    """The output projection with MindSpore's product; as a graph of its own, unless vLLM is eager."""

    def __init__(self) -> None:
        super().__init__()
        self._graph = _graph_of("linear")

    def apply(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return logits: [T, hidden] -> [T, vocab]."""
        if self._graph is None:
            return super().apply(layer, x, bias)
        given = None if bias is None else self._bias.of(bias)
        return self._graph(x, self._weight.of(layer.weight), given)  # type: ignore[no-any-return]


class MindSporeExpertsMethod(UnquantizedFusedMoEMethod):
    """Experts with MindSpore's products, one expert after the other, on weights that stay as they were loaded."""

    def __init__(self, moe: Any) -> None:
        super().__init__(moe)
        kernels = dispatch.current()
        self._linear = kernels.function("linear")
        self._act = kernels.function(f"{moe.activation.value}_and_mul")
        self._gate_up, self._down = ParameterView(), ParameterView()

    def process_weights_after_loading(self, layer: RoutedExperts) -> None:
        """Keep the weights, in MindSpore's memory: vLLM's own method packs them for its kernel."""
        move_to_mindspore(layer.w13_weight)
        move_to_mindspore(layer.w2_weight)

    def apply(
        self,
        layer: RoutedExperts,
        x: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        shared_experts: Any,
        shared_experts_input: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the weighted sum of the chosen experts' outputs, of those on this rank: [T, hidden]."""
        output = torch.zeros_like(x)
        gate_up, down = self._gate_up.of(layer.w13_weight), self._down.of(layer.w2_weight)
        for expert in topk_ids.unique().tolist():
            index = expert if layer.expert_map is None else int(layer.expert_map[expert])
            if index < 0:
                continue
            tokens, rank = (topk_ids == expert).nonzero(as_tuple=True)
            hidden = self._act(self._linear(to_mindspore(x[tokens]), gate_up[index], None))
            computed = to_torch(self._linear(hidden, down[index], None))
            output.index_add_(0, tokens, computed * topk_weights[tokens, rank, None].to(x.dtype))
        return output

    def apply_monolithic(
        self,
        layer: RoutedExperts,
        x: torch.Tensor,
        router_logits: torch.Tensor,
        input_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Route and apply: vLLM 0.23 leaves routing to the method on CPU, later ones do it themselves."""
        weights, experts = layer.router.select_experts(x, router_logits)
        return self.apply(layer, x, weights, experts, None, None)


class CpuTableMethod(UnquantizedEmbeddingMethod):
    """The token embedding with torch's look-up, on a weight that stays as it was loaded.

    vLLM's own method also packs the weight for a product that a table never computes: a second copy of it.
    """

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Keep the weight as it is."""

    def apply(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return logits [T, vocab] of [T, hidden], for a model without :func:`mszoo.layers.lm_head`."""
        return torch.nn.functional.linear(x, layer.weight, bias)


class MindSporeTableMethod(CpuTableMethod):
    """The token embedding with MindSpore's look-up; as a graph of its own, unless vLLM is eager."""

    def __init__(self) -> None:
        super().__init__()
        self._graph = _graph_of("embedding")
        self._embedding = dispatch.current().function("embedding")
        self._table = ParameterView()

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Keep the weight, in MindSpore's memory."""
        move_to_mindspore(layer.weight)

    def embedding(self, layer: torch.nn.Module, input_: torch.Tensor) -> torch.Tensor:
        """Return the rows of the weight that ``input_`` names: [T] -> [T, hidden]."""
        if torch.compiler.is_compiling():  # a draft model of vLLM's, which shares the table: torch's look-up
            return super().embedding(layer, input_)
        if self._graph is not None:
            return self._graph(input_, self._table.of(layer.weight))  # type: ignore[no-any-return]
        return to_torch(self._embedding(to_mindspore(input_), self._table.of(layer.weight)))


@register_weight_loader_v2_supported_method
class CpuLinearMethod(UnquantizedLinearMethod):
    """vLLM's unquantized linear method on CPU, which keeps the handle of the weight that it packed.

    Attributes:
        handler: vLLM's handle of the packed weight, or None where vLLM multiplies by other means.
    """

    def __init__(self) -> None:
        super().__init__()
        self.handler: Any = None
        self._multiply: Any = None

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Pack the weight for oneDNN and free the raw one.

        vLLM does so, too, but for small weights on processors with AMX. The compiled decoder layer multiplies
        by oneDNN, and one small projection must not keep it from running.
        """
        backend = cpu_backend()
        if backend is None or current_platform.is_zen_cpu():
            super().process_weights_after_loading(layer)
            return
        try:
            self.handler, self._multiply = backend.pack(layer.weight), backend.multiply
        except RuntimeError:  # no oneDNN kernel on this processor: vLLM says so and multiplies by torch
            super().process_weights_after_loading(layer)
            return
        layer.weight = torch.nn.Parameter(torch.empty(0, dtype=layer.weight.dtype), requires_grad=False)

    def apply(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return ``x @ weight.T + bias``: [T, in] -> [T, out]."""
        if self.handler is None:
            return super().apply(layer, x, bias)
        return self._multiply(self.handler, x, bias)  # type: ignore[no-any-return]


class _Methods(QuantizationConfig):
    """Gives vLLM's layers the methods above.

    vLLM asks a quantization config for each layer's method, and nothing else decides it short of assigning to
    the layer. This one quantizes nothing.
    """

    def __init__(
        self,
        linear: type[UnquantizedLinearMethod],
        table: type[UnquantizedEmbeddingMethod],
        head: type[UnquantizedEmbeddingMethod],
        experts: type[UnquantizedFusedMoEMethod],
    ) -> None:
        super().__init__()
        self._linear, self._table, self._head, self._experts = linear, table, head, experts

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> QuantizeMethodBase | None:
        if isinstance(layer, ParallelLMHead):
            return self._head()
        if isinstance(layer, VocabParallelEmbedding):
            return self._table()
        if isinstance(layer, RoutedExperts):
            return self._experts(layer.moe_config)
        return self._linear() if isinstance(layer, LinearBase) else None

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
    def from_config(cls, config: dict[str, Any]) -> _Methods:
        raise NotImplementedError("made by mszoo's layers, never from a checkpoint")
