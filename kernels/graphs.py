"""The ``mindspore`` kernel set in graphs: whole stretches of a decoder layer that MindSpore compiles at once.

Op by op, MindSpore's dispatch costs ten times what the arithmetic of a few tokens does. A graph is compiled for
each shape that it meets, in tenths of a second, so the number of tokens is rounded up to one of :data:`TOKENS`;
more tokens than that are computed op by op, where the arithmetic dominates.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import mindspore as ms
from mindspore import ops

from mszoo.kernels import mindspore_set as kernels

HIDDEN = -1e30
_weighted = ops.BatchMatMul()

#: The numbers of tokens that graphs are compiled for.
TOKENS = (1, 2, 4, 8, 16, 32, 64)


def bucket(tokens: int) -> int | None:
    """Return the smallest of :data:`TOKENS` that holds ``tokens``, or None if none does."""
    return next((size for size in TOKENS if size >= tokens), None)


@functools.cache
def graph(function: Callable[..., object]) -> Callable[..., object]:
    """Return ``function`` compiled: MindSpore keeps one graph for each shape of its arguments."""
    return ms.jit(function, jit_level="O1")


def decoder_layer(
    x: ms.Tensor,
    residual: ms.Tensor | None,
    positions: ms.Tensor,
    input_norm: ms.Tensor,
    qkv: ms.Tensor,
    qkv_bias: ms.Tensor | None,
    q_norm: ms.Tensor | None,
    k_norm: ms.Tensor | None,
    cos_sin_cache: ms.Tensor,
    out: ms.Tensor,
    out_bias: ms.Tensor | None,
    post_norm: ms.Tensor,
    gate_up: ms.Tensor,
    gate_up_bias: ms.Tensor | None,
    down: ms.Tensor,
    down_bias: ms.Tensor | None,
    kv_cache: ms.Tensor,
    block_table: ms.Tensor,
    start: ms.Tensor,
    eps: float,
    num_heads: int,
    num_kv_heads: int,
    scale: float,
    sliding_window: int | None,
    softcap: float,
    activation: str,
) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor, ms.Tensor]:
    """Compute a dense decoder layer for B sequences of T/B tokens each.

    Args:
        x: [T, hidden].
        residual: the residual stream, [T, hidden]; None in the first layer.
        positions: [T].
        input_norm to down_bias: the layer's weights, in the order of their use.
        kv_cache, block_table, start: see :func:`attend_beside_cache`.
        eps to softcap: as in the ops.
        activation: name of the gated activation's op.

    Returns:
        The layer's output and the residual stream, [T, hidden] each; the keys and values, [T, G, D] each.
    """
    if residual is None:
        x, residual = kernels.rms_norm(x, input_norm, eps), x
    else:
        x, residual = kernels.fused_add_rms_norm(x, residual, input_norm, eps)
    heads = kernels.linear(x, qkv, qkv_bias)
    if q_norm is not None:
        heads = kernels.qk_norm(heads, q_norm, k_norm, eps, num_heads, num_kv_heads)
    heads = kernels.rotary_embedding(positions, heads, cos_sin_cache, num_heads, num_kv_heads)
    heads = heads.reshape(heads.shape[0], num_heads + 2 * num_kv_heads, -1)
    query = heads[:, :num_heads]
    key, value = heads[:, num_heads : num_heads + num_kv_heads], heads[:, num_heads + num_kv_heads :]
    attended = attend_beside_cache(
        query, key, value, kv_cache, block_table, start, scale, sliding_window, softcap
    )
    x, residual = kernels.fused_add_rms_norm(
        kernels.linear(attended, out, out_bias), residual, post_norm, eps
    )
    gated = kernels.linear(x, gate_up, gate_up_bias)
    if activation == "silu_and_mul":
        gated = kernels.silu_and_mul(gated)
    elif activation == "gelu_and_mul":
        gated = kernels.gelu_and_mul(gated)
    else:
        gated = kernels.gelu_tanh_and_mul(gated)
    return kernels.linear(gated, down, down_bias), residual, key, value


def attend_beside_cache(
    query: ms.Tensor,
    key: ms.Tensor,
    value: ms.Tensor,
    kv_cache: ms.Tensor,
    block_table: ms.Tensor,
    start: ms.Tensor,
    scale: float,
    sliding_window: int | None,
    softcap: float,
) -> ms.Tensor:
    """Attend to the cached tokens of B sequences, and causally to T/B new ones that are not in the cache yet.

    Args:
        query, key, value: of the new tokens: [T, H, D], [T, G, D], [T, G, D].
        kv_cache: as in the op ``paged_attention``.
        block_table: [B, n] int32: the blocks of each sequence; those behind its end may be any.
        start: [B] int32: the number of cached tokens of each sequence.
        scale, sliding_window, softcap: as in the op ``paged_attention``.

    Returns:
        [T, H D].
    """
    batch, heads, kv_heads = block_table.shape[0], query.shape[1], key.shape[1]
    tokens = query.shape[0] // batch
    old_key, old_value = kernels.gather_pages(kv_cache, block_table, kv_heads)
    length, kv = old_key.shape[1], batch * kv_heads
    query = kernels.by_kv_head(query, batch, kv_heads)
    key, value = kernels.by_kv_head(key, batch, kv_heads), kernels.by_kv_head(value, batch, kv_heads)

    # Cached tokens come first: the last of them is at start - 1, and hides no key but by the window.
    start = start.reshape(batch, 1, 1, 1)
    row, column = (
        ops.arange(tokens, dtype=ms.int32).reshape(1, 1, tokens, 1),
        ops.arange(length, dtype=ms.int32),
    )
    bias = (column >= start).astype(ms.float32) * HIDDEN
    if sliding_window is not None:
        bias = bias + (column <= start + row - sliding_window).astype(ms.float32) * HIDDEN
    old = kernels.score(query, old_key, scale, softcap).reshape(batch, heads, tokens, length) + bias
    new = kernels.score(query, key, scale, softcap).reshape(batch, heads, tokens, tokens)
    if tokens > 1:
        new = new + kernels.causal_bias(row, ops.arange(tokens, dtype=ms.int32), sliding_window)

    weights = ops.softmax(ops.cat((old, new), -1), -1).reshape(kv, -1, length + tokens)
    attended = _weighted(weights[:, :, :length], old_value) + _weighted(weights[:, :, length:], value)
    return kernels.by_token(attended, batch, heads)
