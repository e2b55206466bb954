"""What mszoo's layers take of vLLM's CPU backend; imported where the device is a CPU alone.

:func:`mszoo.layers.seam.cpu_backend` imports it there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from vllm import _custom_ops
from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackend,
    CPUAttentionBackendImpl,
    CPUAttentionMetadata,
)

try:  # vLLM 0.28 and later; before it, the method of the fused layer holds the kernel
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts
except ImportError:
    CPUUnquantizedExperts = None
try:
    from vllm.v1.attention.backends.mla.cpu_mla import CPUMLAImpl
except ImportError:  # vLLM 0.23
    CPUMLAImpl = None

__all__ = [
    "CPUAttentionBackend",
    "CPUAttentionBackendImpl",
    "CPUAttentionMetadata",
    "attends_in_encoder_cache",
    "attention_isa",
    "experts_kernel",
    "multiply",
    "pack",
    "plain_decodes",
    "sliding_window_of",
    "takes_sinks",
]

#: ``multiply(handler, x, bias)``: [T, in] -> [T, out].
multiply: Callable[..., torch.Tensor] = _custom_ops.onednn_mm


def pack(weight: torch.Tensor) -> Any:
    """Pack a weight [out, in] for oneDNN and return vLLM's handle: ``handler_tensor`` for ops, ``n`` = out.

    Raises:
        RuntimeError: oneDNN has no kernel for this dtype on this processor.
    """
    return _custom_ops.create_onednn_mm(weight.t(), 32)


def attention_isa(metadata: CPUAttentionMetadata, layer: Any) -> str:
    """Return the instruction set that the layer's keys and values are laid out for.

    It lies on the layer, its implementation or the step's metadata, as the version of vLLM has it.
    """
    for owner in (layer, metadata, layer.impl):
        isa = getattr(owner, "isa", None)
        if isa is not None:
            return isa  # type: ignore[no-any-return]
    raise AttributeError(f"vLLM's CPU attention tells no instruction set (isa) for {layer.layer_name}")


def attends_in_encoder_cache(impl: CPUAttentionBackendImpl) -> bool:
    """Return whether attention of an encoder puts keys and values into a cache that lives for one step.

    Before vLLM 0.24 torch attends, sequence by sequence; where zentorch is installed, it may.
    """
    fields = CPUAttentionMetadata.__dataclass_fields__
    return "encoder_cache" in fields and not getattr(impl, "use_zentorch_sdpa", False)


def sliding_window_of(impl: CPUAttentionBackendImpl) -> int | None:
    """Return how many keys a query sees, its own included; None for all.

    vLLM holds that number, or -1; before 0.24, a pair of how many lie before the query and behind it.
    """
    window = impl.sliding_window
    if isinstance(window, tuple):
        window = window[0] + 1 if window[0] >= 0 else -1
    return None if window < 0 else window


def plain_decodes(layer: Any, metadata: Any, tokens: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return what the op of latent attention reads of a step in which every request decodes one token.

    Args:
        layer: vLLM's, of latent attention.
        metadata: its, of the step.
        tokens: of the step, with padding.

    Returns:
        The requests' block table [T, blocks] and lengths [T], int32; None for any other step, and where more is
        attended by than that op on a cache in the model's dtype.
    """
    # First of all: another implementation's metadata may have other fields.
    if type(layer.impl) is not CPUMLAImpl or layer.kv_cache_dtype != "auto":
        return None
    decode = metadata.decode
    if decode is None or not metadata.num_decodes == metadata.num_decode_tokens == tokens:
        return None
    if layer.q_pad_num_heads is not None or layer.hisparse_cache is not None or layer.impl.dcp_world_size > 1:
        return None
    return decode.block_table.to(torch.int32), decode.seq_lens.to(torch.int32)


def takes_sinks(dtype: torch.dtype) -> bool:
    """Return whether attention of a model in ``dtype`` takes sinks, for any query.

    Before 0.24 torch attends to prompts where the kernel doesn't, without them; before the version that makes sinks
    float32 as it attends, the kernel reads them as bfloat16 alone.
    """
    by_kernel = "encoder_cache" in CPUAttentionMetadata.__dataclass_fields__
    in_float32 = "float32" in CPUAttentionBackendImpl.forward.__code__.co_names
    known = "sinks" in inspect.signature(CPUAttentionBackendImpl.__init__).parameters
    return by_kernel and known and (in_float32 or dtype == torch.bfloat16)


def experts_kernel(routed_experts: torch.nn.Module) -> CPUUnquantizedExperts | None:
    """Return vLLM's kernel for unquantized experts on CPU, or None where something else multiplies.

    Args:
        routed_experts: see :func:`mszoo.layers.seam.routed_experts_of`.
    """
    kernel = getattr(getattr(routed_experts.quant_method, "moe_kernel", None), "fused_experts", None)
    return kernel if CPUUnquantizedExperts is not None and isinstance(kernel, CPUUnquantizedExperts) else None
