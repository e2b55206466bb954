"""The worker: registers its layers as it starts, whoever may have done so before."""

import functools
from typing import Any

import torch

from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
)
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.rotary_embedding import RotaryEmbedding
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.v1.worker.cpu_worker import CPUWorker


class Unused(torch.nn.Module):
    """For layers that no model of the tests has."""


def of(layer: type) -> type:
    """Make a layer that computes what vLLM's own does."""
    return type(f"StandIn{layer.__name__}", (layer,), {})


@functools.cache  # once a process, as vllm-ascend does
def register_layers() -> None:
    from vllm.model_executor.custom_op import CustomOp

    layers = {
        "QuickGELU": Unused,
        "SiluAndMul": of(SiluAndMul),
        "SiluAndMulClamp": Unused,
        "RotaryEmbedding": of(RotaryEmbedding),
        "MRotaryEmbedding": Unused,
        "ColumnParallelLinear": of(ColumnParallelLinear),
        "RowParallelLinear": of(RowParallelLinear),
        "YaRNScalingRotaryEmbedding": Unused,
        "MergedColumnParallelLinear": of(MergedColumnParallelLinear),
        "QKVParallelLinear": of(QKVParallelLinear),
        "ReplicatedLinear": of(ReplicatedLinear),
        "DeepseekScalingRotaryEmbedding": Unused,
        "VocabParallelEmbedding": of(VocabParallelEmbedding),
        "ParallelLMHead": of(ParallelLMHead),
        "LogitsProcessor": of(LogitsProcessor),
        "RMSNorm": of(RMSNorm),
        "GemmaRMSNorm": Unused,
        "MultiHeadLatentAttentionWrapper": Unused,
        "MMEncoderAttention": Unused,
        "ApplyRotaryEmb": Unused,
        "RMSNormGated": Unused,
        "Conv3dLayer": Unused,
        "RelPosAttention": Unused,
        "CustomQwen2Decoder": Unused,
        "GatedDeltaNetAttention": Unused,
        "BailingMoELinearAttention": Unused,
        "MoERunner": Unused,
        "RoutedExperts": Unused,
    }
    layers["FusedMoE"] = Unused
    layers["GateLinear"] = Unused
    for name, layer in layers.items():
        CustomOp.register_oot(_decorated_op_cls=layer, name=name)


class StandInWorker(CPUWorker):
    """vLLM's CPU worker, with our layers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        register_layers()
        super().__init__(*args, **kwargs)

    def initialize_from_config(self, kv_cache_config: Any) -> None:
        from ascend_stand_in.attention import give_pairs

        super().initialize_from_config(kv_cache_config)
        layers = self.vllm_config.compilation_config.static_forward_context
        give_pairs(layers, kv_cache_config.num_blocks, self.vllm_config.cache_config.block_size)
