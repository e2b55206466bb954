"""The ``cpu`` kernel set: vLLM's C++ CPU kernels, and torch's, on memory shared with MindSpore.

Each op takes and returns MindSpore tensors; the kernel sees torch views of the same memory. Products and
attention are not here: their kernels belong to vLLM's linear methods and attention backend (packed weights,
quantization, KV layout), which the layers call with the same views.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from mszoo.kernels import vllm_ops
from mszoo.kernels.exchange import to_mindspore, to_torch

import mindspore as ms

_C = vllm_ops.require(vllm_ops.CPU_SET)


def rms_norm(x: ms.Tensor, weight: ms.Tensor, eps: float) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.RMS_NORM`."""
    source = to_torch(x).contiguous()  # vLLM's kernel takes no notice of strides
    out = torch.empty_like(source)
    _C.rms_norm(out, source, to_torch(weight), eps)
    return to_mindspore(out)


def fused_add_rms_norm(
    x: ms.Tensor, residual: ms.Tensor, weight: ms.Tensor, eps: float
) -> tuple[ms.Tensor, ms.Tensor]:
    """See :data:`mszoo.kernels.spec.FUSED_ADD_RMS_NORM`."""
    _C.fused_add_rms_norm(to_torch(x), to_torch(residual), to_torch(weight), eps)
    return x, residual


def qk_norm(
    qkv: ms.Tensor, q_weight: ms.Tensor, k_weight: ms.Tensor, eps: float, num_heads: int, num_kv_heads: int
) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.QK_NORM`."""
    source = to_torch(qkv)
    heads = source.view(source.shape[0], num_heads + 2 * num_kv_heads, -1)
    for part, weight in (
        (heads[:, :num_heads], q_weight),
        (heads[:, num_heads : num_heads + num_kv_heads], k_weight),
    ):
        # A copy: the kernel wants rows that follow each other. For a single head reshape alone gives a view.
        rows = part.reshape(-1, part.shape[-1]).contiguous()
        out = torch.empty_like(rows)
        _C.rms_norm(out, rows, to_torch(weight), eps)
        part.copy_(out.view(part.shape))
    return qkv


def rotary_embedding(
    positions: ms.Tensor,
    qkv: ms.Tensor,
    cos_sin_cache: ms.Tensor,
    num_heads: int,
    num_kv_heads: int,
    interleaved: bool = False,
) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.ROTARY_EMBEDDING`."""
    source = to_torch(qkv)
    head_size = source.shape[-1] // (num_heads + 2 * num_kv_heads)
    q_size, kv_size = num_heads * head_size, num_kv_heads * head_size
    query, key, _ = source.split([q_size, kv_size, kv_size], -1)
    _C.rotary_embedding(to_torch(positions), query, key, head_size, to_torch(cos_sin_cache), not interleaved)
    return qkv


def layer_norm(x: ms.Tensor, weight: ms.Tensor | None, bias: ms.Tensor | None, eps: float) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.LAYER_NORM`."""
    source = to_torch(x)
    scale, shift = (None if item is None else to_torch(item) for item in (weight, bias))
    return to_mindspore(functional.layer_norm(source, source.shape[-1:], scale, shift, eps))


def silu(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.SILU`."""
    return to_mindspore(functional.silu(to_torch(x)))


def gelu(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.GELU`."""
    return to_mindspore(functional.gelu(to_torch(x)))


def gelu_tanh(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.GELU_TANH`."""
    return to_mindspore(functional.gelu(to_torch(x), approximate="tanh"))


def relu(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.RELU`."""
    return to_mindspore(functional.relu(to_torch(x)))


def relu2(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.RELU2`."""
    return to_mindspore(functional.relu(to_torch(x)).square())


def quick_gelu(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.QUICK_GELU`."""
    source = to_torch(x)
    return to_mindspore((source * 1.702).sigmoid_().mul_(source))


def encoder_attention(qkv: ms.Tensor, num_sequences: int, num_heads: int, scale: float) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.ENCODER_ATTENTION`."""
    source = to_torch(qkv)
    # [B T, 3 H D] -> three of [B, H, T, D]
    heads = source.view(num_sequences, -1, 3, num_heads, source.shape[-1] // (3 * num_heads))
    query, key, value = heads.permute(2, 0, 3, 1, 4)
    attended = functional.scaled_dot_product_attention(query, key, value, scale=scale)
    return to_mindspore(attended.transpose(1, 2).reshape(source.shape[0], -1))


def silu_and_mul(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.SILU_AND_MUL`."""
    return _gated(torch.ops.aten.silu.out, x)


def gelu_and_mul(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.GELU_AND_MUL`."""
    return _gated(torch.ops.aten.gelu.out, x)


def gelu_tanh_and_mul(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.GELU_TANH_AND_MUL`."""
    return _gated(torch.ops.aten.gelu.out, x, approximate="tanh")


def _gated(activation: Callable[..., torch.Tensor], x: ms.Tensor, **options: str) -> ms.Tensor:
    # torch's activations are vectorized; vLLM's fused ones take an element at a time, and 2 to 12 times as long.
    gate, up = to_torch(x).chunk(2, -1)
    out = torch.empty(gate.shape, dtype=gate.dtype)
    activation(gate, out=out, **options)
    return to_mindspore(out.mul_(up))
