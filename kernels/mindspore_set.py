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
_TOGETHER = 64  # queries of a sequence


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
    positions: ms.Tensor,
    qkv: ms.Tensor,
    cos_sin_cache: ms.Tensor,
    num_heads: int,
    num_kv_heads: int,
    interleaved: bool = False,
) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.ROTARY_EMBEDDING`."""
    q, k, v = _split_heads(qkv, num_heads, num_kv_heads)
    tokens = qkv.shape[0]
    cos, sin = ops.split(
        ops.gather(cos_sin_cache, positions, 0).reshape(tokens, 1, -1), _half(cos_sin_cache), -1
    )
    rotate = _rotate_pairs if interleaved else _rotate
    rotated = rotate(ops.cat((q, k), 1), cos, sin)
    return ops.cat((rotated, v), 1).reshape(qkv.shape)


def layer_norm(x: ms.Tensor, weight: ms.Tensor | None, bias: ms.Tensor | None, eps: float) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.LAYER_NORM`."""
    centred = x - _mean(x, -1)
    normed = centred * ops.rsqrt(_mean(ops.square(centred), -1) + eps)
    if weight is not None:
        normed = normed * weight
    return normed if bias is None else normed + bias


def silu(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.SILU`."""
    return ops.silu(x)


def gelu(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.GELU`."""
    return ops.gelu(x, approximate="none")


def gelu_tanh(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.GELU_TANH`."""
    return ops.gelu(x, approximate="tanh")


def relu(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.RELU`."""
    return ops.relu(x)


def relu2(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.RELU2`."""
    return ops.square(ops.relu(x))


def quick_gelu(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.QUICK_GELU`."""
    return x * ops.sigmoid(x * 1.702)


def encoder_attention(qkv: ms.Tensor, num_sequences: int, num_heads: int, scale: float) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.ENCODER_ATTENTION`."""
    rows, width = qkv.shape
    length, size = rows // num_sequences, width // (3 * num_heads)
    heads = qkv.reshape(num_sequences, length, 3, num_heads, size)
    # [3, B H, T, D]
    heads = ops.transpose(heads, (2, 0, 3, 1, 4)).reshape(3, num_sequences * num_heads, length, size)
    weights = ops.softmax(_scores(heads[0], heads[1]) * scale, -1)
    attended = _weighted(weights, heads[2]).reshape(num_sequences, num_heads, length, size)
    return ops.transpose(attended, (0, 2, 1, 3)).reshape(rows, num_heads * size)


def silu_and_mul(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.SILU_AND_MUL`."""
    gate, up = ops.split(x, x.shape[-1] // 2, -1)
    return silu(gate) * up


def gelu_and_mul(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.GELU_AND_MUL`."""
    gate, up = ops.split(x, x.shape[-1] // 2, -1)
    return gelu(gate) * up


def gelu_tanh_and_mul(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.GELU_TANH_AND_MUL`."""
    gate, up = ops.split(x, x.shape[-1] // 2, -1)
    return gelu_tanh(gate) * up


def paged_attention(
    query: ms.Tensor,
    kv_cache: ms.Tensor,
    block_table: ms.Tensor,
    query_start: Sequence[int],
    seq_lens: Sequence[int],
    scale: float,
    num_kv_heads: int,
    sliding_window: int | None = None,
    softcap: float = 0.0,
) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.PAGED_ATTENTION`."""
    outputs = []
    sequence = 0
    while sequence < len(seq_lens):
        tokens = query_start[sequence + 1] - query_start[sequence]
        last = sequence + 1
        # Sequences with equally many queries are attended together, unless their scores would take much memory.
        while (
            tokens <= _TOGETHER
            and last < len(seq_lens)
            and query_start[last + 1] - query_start[last] == tokens
        ):
            last += 1
        lengths = seq_lens[sequence:last]
        blocks = -(-max(lengths) // kv_cache.shape[1])
        outputs.append(
            attend(
                query[query_start[sequence] : query_start[last]],
                kv_cache,
                block_table[sequence:last, :blocks],
                ms.Tensor([length - tokens for length in lengths], ms.int32),
                scale,
                num_kv_heads,
                sliding_window,
                softcap,
            )
        )
        sequence = last
    return outputs[0] if len(outputs) == 1 else ops.cat(tuple(outputs), 0)


def attend(
    query: ms.Tensor,
    kv_cache: ms.Tensor,
    block_table: ms.Tensor,
    start: ms.Tensor,
    scale: float,
    num_kv_heads: int,
    sliding_window: int | None,
    softcap: float,
) -> ms.Tensor:
    """Attend B sequences of equally many query tokens T/B, whose keys and values are in the cache.

    Args:
        query: [T, H, D].
        kv_cache, block_table: as in the op; ``block_table`` int32.
        start: [B] int32: the position of each sequence's first query.
        scale, num_kv_heads, sliding_window, softcap: as in the op.

    Returns:
        [T, H D].
    """
    batch, heads = block_table.shape[0], query.shape[1]
    tokens = query.shape[0] // batch
    key, value = gather_pages(kv_cache, block_table, num_kv_heads)
    length = key.shape[1]
    scores = score(by_kv_head(query, batch, num_kv_heads), key, scale, softcap)
    row = start.reshape(batch, 1, 1, 1) + ops.arange(tokens, dtype=ms.int32).reshape(1, 1, tokens, 1)
    scores = scores.reshape(batch, heads, tokens, length) + causal_bias(
        row, ops.arange(length, dtype=ms.int32), sliding_window
    )
    weights = ops.softmax(scores, -1).reshape(key.shape[0], -1, length)
    return by_token(_weighted(weights, value), batch, heads)


def gather_pages(
    kv_cache: ms.Tensor, block_table: ms.Tensor, num_kv_heads: int
) -> tuple[ms.Tensor, ms.Tensor]:
    """Return the keys and values of B sequences, [B G, n block, D] each; ``block_table`` is [B, n] int32.

    The cache comes in rows, as the op says, because MindSpore's CPU reshape would copy all of it. Gathered by
    sequence, head and block the rows need no transposition.
    """
    batch, blocks = block_table.shape
    _, block_size, head_size = kv_cache.shape
    rows = key_rows(block_table, num_kv_heads)
    shape = batch * num_kv_heads, blocks * block_size, head_size
    return ops.gather(kv_cache, rows, 0).reshape(shape), ops.gather(kv_cache, rows + 1, 0).reshape(shape)


def key_rows(block_table: ms.Tensor, num_kv_heads: int) -> ms.Tensor:
    """Return the rows of the cache that hold keys, [B G n], by sequence, head and block; values are one further."""
    batch, blocks = block_table.shape
    head_row = (ops.arange(num_kv_heads, dtype=ms.int32) * 2).reshape(1, num_kv_heads, 1)
    return (block_table.reshape(batch, 1, blocks) * (2 * num_kv_heads) + head_row).reshape(-1)


def by_kv_head(x: ms.Tensor, batch: int, kv_heads: int) -> ms.Tensor:
    """Put the heads that share a key/value head together: [T, H, D] -> [B G, H/G T/B, D]."""
    tokens, heads, head_size = x.shape[0] // batch, x.shape[1], x.shape[2]
    group = heads // kv_heads
    if tokens > 1:
        x = ops.transpose(x.reshape(batch, tokens, heads, head_size), (0, 2, 1, 3))
    return x.reshape(batch * kv_heads, group * tokens, head_size)


def by_token(x: ms.Tensor, batch: int, heads: int) -> ms.Tensor:
    """Undo :func:`by_kv_head` and put the heads side by side: [B G, H/G T/B, D] -> [T, H D]."""
    head_size = x.shape[2]
    tokens = x.shape[0] * x.shape[1] // (batch * heads)
    if tokens > 1:
        x = ops.transpose(x.reshape(batch, heads, tokens, head_size), (0, 2, 1, 3))
    return x.reshape(batch * tokens, heads * head_size)


def score(query: ms.Tensor, key: ms.Tensor, scale: float, softcap: float) -> ms.Tensor:
    """Return the scores of queries [N, M, D] against keys [N, L, D]: [N, M, L]."""
    scores = _scores(query, key) * scale
    return ops.tanh(scores / softcap) * softcap if softcap else scores


def causal_bias(row: ms.Tensor, column: ms.Tensor, sliding_window: int | None) -> ms.Tensor:
    """Return 0 where the query at position ``row`` sees the key at ``column``, else a large negative number."""
    hidden = column > row
    if sliding_window:
        hidden = ops.logical_or(hidden, column <= row - sliding_window)
    return hidden.astype(ms.float32) * _MASKED


def _split_heads(qkv: ms.Tensor, num_heads: int, num_kv_heads: int) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
    heads = qkv.reshape(qkv.shape[0], num_heads + 2 * num_kv_heads, -1)
    query, key, value = ops.split(heads, [num_heads, num_kv_heads, num_kv_heads], 1)
    return query, key, value


def _half(cos_sin_cache: ms.Tensor) -> int:
    return int(cos_sin_cache.shape[-1]) // 2


def _rotate(x: ms.Tensor, cos: ms.Tensor, sin: ms.Tensor) -> ms.Tensor:
    """Rotate the first ``2 * cos.shape[-1]`` entries of each head by halves; the rest passes through."""
    half = cos.shape[-1]
    rest = x.shape[-1] - 2 * half
    first, second, *passed = ops.split(x, [half, half, rest] if rest else [half, half], -1)
    return ops.cat((first * cos - second * sin, second * cos + first * sin, *passed), -1)


def _rotate_pairs(x: ms.Tensor, cos: ms.Tensor, sin: ms.Tensor) -> ms.Tensor:
    """Rotate the first ``2 * cos.shape[-1]`` entries of each head by pairs; the rest passes through."""
    tokens, heads, size = x.shape
    turned = 2 * cos.shape[-1]
    first, second = ops.split(x[..., :turned].reshape(tokens, heads, -1, 2), 1, -1)
    cos, sin = cos.expand_dims(-1), sin.expand_dims(-1)
    pairs = ops.cat((first * cos - second * sin, second * cos + first * sin), -1).reshape(
        tokens, heads, turned
    )
    return pairs if turned == size else ops.cat((pairs, x[..., turned:]), -1)
