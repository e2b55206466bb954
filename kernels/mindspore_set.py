"""The ``mindspore`` kernel set: every op from stock MindSpore ops. The reference for the other sets.

Only ops that MindSpore's CPU backend has are used. Matrix products are in float32 there, so on CPU this set
serves float32. Shapes: T tokens, H query heads, G key/value heads, D head size, N model width.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
from mindspore import ops

# Only MatMul(transpose_b=True) reads a [out, in] weight as it lies; matmul(x, w.T) copies it at every call.
_matmul = ops.MatMul(transpose_b=True)
_scores = ops.BatchMatMul(transpose_b=True)
_weighted = ops.BatchMatMul()
_mean = ops.ReduceMean(keep_dims=True)
_MASKED = -1e30


def embedding(ids: ms.Tensor, weight: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.EMBEDDING`."""
    return ops.gather(weight, ids, 0)


def linear(x: ms.Tensor, weight: ms.Tensor, bias: ms.Tensor | None = None) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.LINEAR`."""
    y = _matmul(x, weight)
    return y if bias is None else y + bias


def rms_norm(x: ms.Tensor, weight: ms.Tensor, eps: float) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.RMS_NORM`."""
    return x * ops.rsqrt(_mean(ops.square(x), -1) + eps) * weight


def fused_add_rms_norm(
    x: ms.Tensor, residual: ms.Tensor, weight: ms.Tensor, eps: float
) -> tuple[ms.Tensor, ms.Tensor]:
    """See :data:`mszoo.kernels.spec.FUSED_ADD_RMS_NORM`."""
    residual = x + residual
    return rms_norm(residual, weight, eps), residual


def qk_norm(
    qkv: ms.Tensor, q_weight: ms.Tensor, k_weight: ms.Tensor, eps: float, num_heads: int, num_kv_heads: int
) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.QK_NORM`."""
    q, k, v = _split_heads(qkv, num_heads, num_kv_heads)
    parts = (rms_norm(q, q_weight, eps), rms_norm(k, k_weight, eps), v)
    return ops.cat(parts, 1).reshape(qkv.shape)


def rotary_embedding(
    positions: ms.Tensor, qkv: ms.Tensor, cos_sin_cache: ms.Tensor, num_heads: int, num_kv_heads: int
) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.ROTARY_EMBEDDING`."""
    q, k, v = _split_heads(qkv, num_heads, num_kv_heads)
    tokens = qkv.shape[0]
    cos, sin = ops.split(
        ops.gather(cos_sin_cache, positions, 0).reshape(tokens, 1, -1), _half(cos_sin_cache), -1
    )
    rotated = _rotate(ops.cat((q, k), 1), cos, sin)
    return ops.cat((rotated, v), 1).reshape(qkv.shape)


def silu_and_mul(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.SILU_AND_MUL`."""
    gate, up = ops.split(x, x.shape[-1] // 2, -1)
    return gate * ops.sigmoid(gate) * up


def gelu_and_mul(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.GELU_AND_MUL`."""
    gate, up = ops.split(x, x.shape[-1] // 2, -1)
    return ops.gelu(gate, approximate="none") * up


def gelu_tanh_and_mul(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.GELU_TANH_AND_MUL`."""
    gate, up = ops.split(x, x.shape[-1] // 2, -1)
    return ops.gelu(gate, approximate="tanh") * up


def paged_attention(
    query: ms.Tensor,
    kv_cache: ms.Tensor,
    block_table: ms.Tensor,
    query_start: Sequence[int],
    seq_lens: Sequence[int],
    scale: float,
    sliding_window: int | None = None,
    softcap: float = 0.0,
) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.PAGED_ATTENTION`."""
    outputs = []
    sequence = 0
    while sequence < len(seq_lens):
        tokens = query_start[sequence + 1] - query_start[sequence]
        last = sequence + 1
        # Sequences that decode one token each are attended together; a longer chunk is attended alone.
        while tokens == 1 and last < len(seq_lens) and query_start[last + 1] - query_start[last] == 1:
            last += 1
        outputs.append(
            _attend(
                query[query_start[sequence] : query_start[last]],
                kv_cache,
                block_table[sequence:last],
                seq_lens[sequence:last],
                scale,
                sliding_window,
                softcap,
            )
        )
        sequence = last
    return outputs[0] if len(outputs) == 1 else ops.cat(tuple(outputs), 0)


def _attend(
    query: ms.Tensor,
    kv_cache: ms.Tensor,
    block_table: ms.Tensor,
    seq_lens: Sequence[int],
    scale: float,
    sliding_window: int | None,
    softcap: float,
) -> ms.Tensor:
    """Attend B sequences of equally many query tokens (1 each, or one sequence of many)."""
    batch = len(seq_lens)
    tokens, heads, head_size = query.shape[0] // batch, query.shape[1], query.shape[2]
    kv_heads, block_size = kv_cache.shape[1], kv_cache.shape[2]
    group = heads // kv_heads
    blocks = -(-max(seq_lens) // block_size)
    length = blocks * block_size

    # [B * blocks, G, block, 2D] -> [B * G, length, 2D]
    pages = ops.gather(kv_cache, block_table[:, :blocks].reshape(-1), 0)
    pages = pages.reshape(batch, blocks, kv_heads, block_size, 2 * head_size)
    pages = ops.transpose(pages, (0, 2, 1, 3, 4)).reshape(batch * kv_heads, length, 2 * head_size)
    key, value = ops.split(pages, head_size, -1)

    # [B * T, H, D] -> [B * G, group * T, D]: the heads that share a key/value head share one product
    q = query.reshape(batch, tokens, kv_heads, group, head_size)
    q = ops.transpose(q, (0, 2, 3, 1, 4)).reshape(batch * kv_heads, group * tokens, head_size)
    scores = _scores(q, key) * scale
    if softcap:
        scores = ops.tanh(scores / softcap) * softcap
    scores = scores.reshape(batch, kv_heads, group, tokens, length)
    scores = ops.softmax(scores + _causal_bias(seq_lens, tokens, length, sliding_window), -1)
    out = _weighted(scores.reshape(batch * kv_heads, group * tokens, length), value)
    out = ops.transpose(out.reshape(batch, kv_heads, group, tokens, head_size), (0, 3, 1, 2, 4))
    return out.reshape(batch * tokens, heads * head_size)


def _causal_bias(seq_lens: Sequence[int], tokens: int, length: int, sliding_window: int | None) -> ms.Tensor:
    """Return 0 where a query may look and a large negative number elsewhere: [B, 1, 1, T, length]."""
    end = ms.Tensor(list(seq_lens), ms.int32).reshape(-1, 1, 1, 1, 1)
    row = ops.arange(tokens, dtype=ms.int32).reshape(1, 1, 1, tokens, 1) + (end - tokens)
    column = ops.arange(length, dtype=ms.int32).reshape(1, 1, 1, 1, length)
    hidden = column > row
    if sliding_window:
        hidden = ops.logical_or(hidden, column <= row - sliding_window)
    return hidden.astype(ms.float32) * _MASKED


def _split_heads(qkv: ms.Tensor, num_heads: int, num_kv_heads: int) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
    heads = qkv.reshape(qkv.shape[0], num_heads + 2 * num_kv_heads, -1)
    return ops.split(heads, [num_heads, num_kv_heads, num_kv_heads], 1)


def _half(cos_sin_cache: ms.Tensor) -> int:
    return cos_sin_cache.shape[-1] // 2


def _rotate(x: ms.Tensor, cos: ms.Tensor, sin: ms.Tensor) -> ms.Tensor:
    """Rotate the first ``2 * cos.shape[-1]`` entries of each head by halves; the rest passes through."""
    half = cos.shape[-1]
    rest = x.shape[-1] - 2 * half
    first, second, *passed = ops.split(x, [half, half, rest] if rest else [half, half], -1)
    return ops.cat((first * cos - second * sin, second * cos + first * sin, *passed), -1)
