"""The ``mindspore`` kernel set in one graph: all layers of a dense decoder, compiled by MindSpore at once.

Op by op, MindSpore's dispatch costs ten times what the arithmetic of a few tokens does, every graph that is
launched costs about a millisecond beside a busy torch, and many an op loses a piece of memory at each call, which
those of a graph don't. A graph is compiled for each shape that it meets, in tenths of a second a layer, and its
memory (2 to 3 MiB a layer) is never freed. So a step is computed in pieces, whose shapes are rounded up to a
bounded number of them: :class:`Shapes`.

What layers share is computed once, ahead of them: the tables that rotate heads, the rows of the cache, and the bias
that hides keys. An op costs microseconds whatever it computes, and a slice of heads more than a product does. So
queries, keys and values are rotated together before they are parted (values by nothing), and the table scales
queries. A graph attends to the step's own keys and values beside those in vLLM's cache, since MindSpore's CPU ops
can't write into vLLM's memory; the caller stores them afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mszoo.kernels import mindspore_set as kernels

import mindspore as ms
from mindspore import nn, ops

#: Cosines, signed sines and the order of swapped halves, as :func:`_rotate` takes them.
Tables = tuple[ms.Tensor, ms.Tensor, ms.Tensor]

_HIDDEN = -1e30
_scores = ops.BatchMatMul(transpose_b=True)
_weighted = ops.BatchMatMul()
_part = ops.Slice()  # a third faster than indexing, which is a strided slice

#: Sequences that have one query each, as a piece of a step takes them.
SEQUENCES = (1, 2, 4, 8, 16, 32, 64)
#: Queries of one sequence, as a piece of a step takes them.
QUERIES = (4, 16, 64, 256)
#: Graphs that are compiled; beyond, one of each kind for each number of blocks, which holds every piece.
GRAPHS = 16


class Shape(NamedTuple):
    """What a graph is compiled for.

    Attributes:
        tokens: T.
        sequences: B, which is T or 1.
        blocks: columns of the block table.
    """

    tokens: int
    sequences: int
    blocks: int

    def holds(self, other: Shape) -> bool:
        """Say whether a piece of the other shape can be computed in this one."""
        alike = other.tokens == 1 or (self.sequences == 1) == (other.sequences == 1)
        return alike and self.tokens >= other.tokens and self.blocks >= other.blocks


class Shapes:
    """The shapes that the graphs of one model were compiled for: a bounded number."""

    def __init__(self) -> None:
        self._compiled: set[Shape] = set()

    def fit(self, tokens: int, sequences: int, blocks: int) -> Shape:
        """Return the shape in which a piece is computed.

        Args:
            tokens: T, at most the last of :data:`SEQUENCES`, or of :data:`QUERIES` where ``sequences`` is 1.
            sequences: T or 1.
            blocks: how many the longest sequence has.
        """
        sizes = SEQUENCES if sequences == tokens else QUERIES
        size = next(size for size in sizes if size >= tokens)
        exact = Shape(size, size if sequences == tokens else 1, _power_of_4(blocks))
        if exact in self._compiled or len(self._compiled) < GRAPHS:
            found = exact
        else:
            others = [shape for shape in self._compiled if shape.holds(exact)]
            largest = Shape(sizes[-1], sizes[-1] if sequences == tokens else 1, exact.blocks)
            found = min(others, key=lambda shape: (shape.tokens * shape.blocks, shape), default=largest)
        self._compiled.add(found)
        return found


def _power_of_4(count: int) -> int:
    return 1 << (count - 1).bit_length() + (count - 1).bit_length() % 2


class LayerCell(nn.Cell):
    """One layer of :class:`DecoderCell`.

    Args:
        weights: by name: ``input_norm``, ``qkv``, ``out``, ``post_norm``, ``gate_up``, ``down``, and where the
            layer has them ``q_norm``, ``k_norm`` and ``<projection>_bias``.
        kv_cache: as in the op ``paged_attention``.
        num_heads, num_kv_heads: H and G.
        eps: of its norms.
        scale, softcap: as in the op ``paged_attention``.
        activation: name of the gated activation's op.
    """

    def __init__(
        self,
        weights: Mapping[str, ms.Parameter | None],
        kv_cache: ms.Parameter,
        *,
        num_heads: int,
        num_kv_heads: int,
        eps: float,
        scale: float,
        softcap: float,
        activation: str,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.input_norm, self.post_norm = weights["input_norm"], weights["post_norm"]
        self.q_norm, self.k_norm = weights.get("q_norm"), weights.get("k_norm")
        self.qkv, self.qkv_bias = weights["qkv"], weights.get("qkv_bias")
        self.out, self.out_bias = weights["out"], weights.get("out_bias")
        self.gate_up, self.gate_up_bias = weights["gate_up"], weights.get("gate_up_bias")
        self.down, self.down_bias = weights["down"], weights.get("down_bias")
        self.kv_cache = kv_cache
        self.heads, self.kv_heads, self.eps = num_heads, num_kv_heads, eps
        self.scale, self.softcap, self.activation = scale, softcap, activation

    def construct(self, x, residual, tables, key_rows, value_rows, bias):  # type: ignore[no-untyped-def]
        """Return the layer's output and the residual stream, [T, hidden]; its keys and values, [T, G, D]."""
        heads, kv_heads = self.heads, self.kv_heads
        if residual is None:
            x, residual = kernels.rms_norm(x, self.input_norm, self.eps), x
        else:
            x, residual = kernels.fused_add_rms_norm(x, residual, self.input_norm, self.eps)
        qkv = kernels.linear(x, self.qkv, self.qkv_bias).reshape(x.shape[0], heads + 2 * kv_heads, -1)
        if self.q_norm is None:
            query, key, value = _split_heads(_rotate(qkv, *tables), heads, kv_heads)
        else:
            query, key, value = _split_heads(qkv, heads, kv_heads)
            query = _rotate(kernels.rms_norm(query, self.q_norm, self.eps), *tables[0])
            key = _rotate(kernels.rms_norm(key, self.k_norm, self.eps), *tables[1])
        x = self.attend(query, key, value, key_rows, value_rows, bias)  # type: ignore[no-untyped-call]
        x = kernels.linear(x, self.out, self.out_bias)
        x, residual = kernels.fused_add_rms_norm(x, residual, self.post_norm, self.eps)
        gated = kernels.linear(x, self.gate_up, self.gate_up_bias)
        if self.activation == "silu_and_mul":
            gated = kernels.silu_and_mul(gated)
        elif self.activation == "gelu_and_mul":
            gated = kernels.gelu_and_mul(gated)
        else:
            gated = kernels.gelu_tanh_and_mul(gated)
        return kernels.linear(gated, self.down, self.down_bias), residual, key, value

    def attend(self, query, key, value, key_rows, value_rows, bias):  # type: ignore[no-untyped-def]
        """Attend to the cached tokens of each sequence, then to the step's own: scaled [T, H, D] -> [T, H D]."""
        batch, heads, kv_heads = bias.shape[0], self.heads, self.kv_heads
        tokens, head_size = query.shape[0] // batch, query.shape[2]
        kv = batch * kv_heads
        old_key = ops.gather(self.kv_cache, key_rows, 0).reshape(kv, -1, head_size)
        old_value = ops.gather(self.kv_cache, value_rows, 0).reshape(kv, -1, head_size)
        query = kernels.by_kv_head(query, batch, kv_heads)
        key, value = kernels.by_kv_head(key, batch, kv_heads), kernels.by_kv_head(value, batch, kv_heads)
        length = old_key.shape[1]
        scores = ops.cat((_scores(query, old_key), _scores(query, key)), -1)
        if self.softcap:
            scores = ops.tanh(scores / self.softcap) * self.softcap
        scores = scores.reshape(batch, heads, tokens, length + tokens) + bias
        weights = ops.softmax(scores, -1).reshape(kv, -1, length + tokens)
        rows = weights.shape[1]
        attended = _weighted(_part(weights, (0, 0, 0), (kv, rows, length)), old_value) + _weighted(
            _part(weights, (0, 0, length), (kv, rows, tokens)), value
        )
        return kernels.by_token(attended, batch, heads)


class DecoderCell(nn.Cell):
    """The layers of a dense decoder and its last norm, as one graph.

    Args:
        layers: the layers; they share the number of heads and the scale, and all have head norms or none has.
        norm: the last norm's weight.
        eps: the last norm's.
        cos_sin_cache: as in the op ``rotary_embedding``; for all layers.
        windows: each layer's sliding window or None.
        block_size: tokens in a block of the caches.
    """

    def __init__(
        self,
        layers: Sequence[LayerCell],
        norm: ms.Parameter,
        eps: float,
        cos_sin_cache: ms.Parameter,
        windows: Sequence[int | None],
        block_size: int,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.layers = nn.CellList(list(layers), auto_prefix=False)
        self.norm, self.eps, self.cos_sin_cache = norm, eps, cos_sin_cache
        first = layers[0]
        self.heads, self.kv_heads, self.scale = first.heads, first.kv_heads, first.scale
        self.separate = first.q_norm is not None
        self.block_size, self.head_size = block_size, first.kv_cache.shape[2]
        rotated = cos_sin_cache.shape[1]
        swapped = (*range(rotated // 2, rotated), *range(rotated // 2), *range(rotated, self.head_size))
        self.swapped = ms.Tensor(swapped, ms.int32)
        self.windows = tuple(dict.fromkeys(windows))
        self.window_of = tuple(self.windows.index(window) for window in windows)

    @ms.jit(jit_level="O1")
    def construct(self, x, positions, block_table, start):  # type: ignore[no-untyped-def]
        """Compute B sequences of T/B tokens each.

        Args:
            x: embeddings [T, hidden].
            positions: [T].
            block_table: [B, n] int32: the blocks of each sequence; those behind its end may be any.
            start: [B] int32: the number of cached tokens of each sequence.

        Returns:
            Hidden states [T, hidden]; the keys and the values of all layers, [layers, T, G, D] each.
        """
        cos, sin = _angles(self.cos_sin_cache, positions, self.head_size)
        query, key = (cos * self.scale, sin * self.scale, self.swapped), (cos, sin, self.swapped)
        if self.separate:
            tables = query, key
        else:
            tables = _for_all_heads(query, key, self.heads, self.kv_heads)  # type: ignore[assignment]
        key_rows = kernels.key_rows(block_table, self.kv_heads)
        tokens = positions.shape[0] // block_table.shape[0]
        biases = ()
        for window in self.windows:
            biases = (*biases, _bias(start, block_table.shape[1] * self.block_size, tokens, window))  # type: ignore[assignment]
        residual, keys, values = None, (), ()
        for layer, index in zip(self.layers, self.window_of):  # noqa: B905  a graph's zip has no strict
            x, residual, key, value = layer(x, residual, tables, key_rows, key_rows + 1, biases[index])
            keys, values = (*keys, key), (*values, value)  # type: ignore[assignment]
        x, _ = kernels.fused_add_rms_norm(x, residual, self.norm, self.eps)
        return x, ops.stack(keys), ops.stack(values)


def _angles(cos_sin_cache: ms.Tensor, positions: ms.Tensor, head_size: int) -> tuple[ms.Tensor, ms.Tensor]:
    """Return cosines and signed sines [T, 1, D] such that rotated = x * cos + swapped halves of x * sin.

    Entries that don't turn have 1 and 0.
    """
    tokens, passed = positions.shape[0], head_size - cos_sin_cache.shape[1]
    cos, sin = ops.split(
        ops.gather(cos_sin_cache, positions, 0).reshape(tokens, 1, -1), cos_sin_cache.shape[1] // 2, -1
    )
    if not passed:
        return ops.cat((cos, cos), -1), ops.cat((-sin, sin), -1)
    one, zero = ops.ones((tokens, 1, passed), ms.float32), ops.zeros((tokens, 1, passed), ms.float32)
    return ops.cat((cos, cos, one), -1), ops.cat((-sin, sin, zero), -1)


def _for_all_heads(query: Tables, key: Tables, heads: int, kv_heads: int) -> Tables:
    """Return the tables [T, H + 2 G, D] that rotate queries, keys and values, which lie in this order."""
    cos, sin, swapped = key
    copies = (1, heads, 1), (1, kv_heads, 1)
    one, zero = ops.tile(ops.ones_like(cos), copies[1]), ops.tile(ops.zeros_like(sin), copies[1])
    return (
        ops.cat((ops.tile(query[0], copies[0]), ops.tile(cos, copies[1]), one), 1),
        ops.cat((ops.tile(query[1], copies[0]), ops.tile(sin, copies[1]), zero), 1),
        swapped,
    )


def _rotate(x: ms.Tensor, cos: ms.Tensor, sin: ms.Tensor, swapped: ms.Tensor) -> ms.Tensor:
    """Rotate heads [T, *, D]; ``swapped`` [D] says which entry turns with each."""
    return x * cos + ops.gather(x, swapped, 2) * sin


def _split_heads(x: ms.Tensor, heads: int, kv_heads: int) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
    """Split [T, H + 2 G, D] into queries, keys and values."""
    tokens, _, size = x.shape
    return (
        _part(x, (0, 0, 0), (tokens, heads, size)),
        _part(x, (0, heads, 0), (tokens, kv_heads, size)),
        _part(x, (0, heads + kv_heads, 0), (tokens, kv_heads, size)),
    )


def _bias(start: ms.Tensor, length: int, tokens: int, window: int | None) -> ms.Tensor:
    """Return what is added to scores, [B, 1, tokens, length + tokens]: cached keys first, then the step's own.

    The last cached token is at ``start - 1`` and hides no key but by the window.
    """
    batch = start.shape[0]
    start = start.reshape(batch, 1, 1, 1)
    row = ops.arange(tokens, dtype=ms.int32).reshape(1, 1, tokens, 1)
    column = ops.arange(length, dtype=ms.int32).reshape(1, 1, 1, length)
    old = ops.tile((column >= start).astype(ms.float32) * _HIDDEN, (1, 1, tokens, 1))
    if window is not None:
        old = old + (column <= start + row - window).astype(ms.float32) * _HIDDEN
    new = kernels.causal_bias(row, ops.arange(tokens, dtype=ms.int32).reshape(1, 1, 1, tokens), window)
    return ops.cat((old, ops.tile(new, (batch, 1, 1, 1))), -1)
