"""What each op means: its signature, which inputs it may overwrite, how exact it must be, and an example.

The kernel sets implement these, the tests hold every implementation to them. Shapes: T tokens, H query heads,
G key/value heads, D head size, N model width, V vocabulary. ``qkv`` is ``[T, (H + 2 G) D]``: the query,
key and value heads side by side, as the fused projection writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Example = Callable[["np.random.Generator", int], dict[str, Any]]

_TOLERANCE = MappingProxyType({"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2})


@dataclass(frozen=True)
class OpSpec:
    """One op.

    Attributes:
        name: what kernel sets call it.
        meaning: the computation, with shapes.
        example: makes arguments by name for a given number of tokens: float32 or integer numpy arrays, and
            plain Python values. A test casts the float arrays to the dtype under test.
        overwrites: arguments that an implementation may overwrite; callers must not use them afterwards.
        tolerance: largest absolute error against the same computation in float64, relative to the largest
            absolute value of the result, by dtype.
    """

    name: str
    meaning: str
    example: Example
    overwrites: tuple[str, ...] = ()
    tolerance: Mapping[str, float] = field(default_factory=lambda: _TOLERANCE)


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype("float32")


def _embedding(rng: np.random.Generator, tokens: int) -> dict[str, Any]:
    return {"ids": rng.integers(0, 50, tokens), "weight": _normal(rng, 50, 64)}


def _linear(rng: np.random.Generator, tokens: int) -> dict[str, Any]:
    return {"x": _normal(rng, tokens, 64), "weight": _normal(rng, 96, 64), "bias": _normal(rng, 96)}


def _rms_norm(rng: np.random.Generator, tokens: int) -> dict[str, Any]:
    return {"x": _normal(rng, tokens, 64), "weight": _normal(rng, 64), "eps": 1e-6}


def _fused_add_rms_norm(rng: np.random.Generator, tokens: int) -> dict[str, Any]:
    return {"x": _normal(rng, tokens, 64), "residual": _normal(rng, tokens, 64)} | {
        "weight": _normal(rng, 64),
        "eps": 1e-6,
    }


def _qk_norm(rng: np.random.Generator, tokens: int) -> dict[str, Any]:
    return {
        "qkv": _normal(rng, tokens, 8 * 32),
        "q_weight": _normal(rng, 32),
        "k_weight": _normal(rng, 32),
        "eps": 1e-6,
        "num_heads": 4,
        "num_kv_heads": 2,
    }


def _rotary_embedding(rng: np.random.Generator, tokens: int) -> dict[str, Any]:
    import numpy as np

    angles = rng.uniform(-np.pi, np.pi, (128, 16))
    return {
        "positions": rng.integers(0, 128, tokens),
        "qkv": _normal(rng, tokens, 8 * 32),
        "cos_sin_cache": np.concatenate([np.cos(angles), np.sin(angles)], -1).astype("float32"),
        "num_heads": 4,
        "num_kv_heads": 2,
        "interleaved": tokens % 3 == 0,  # both are tried
    }


def _gated(rng: np.random.Generator, tokens: int) -> dict[str, Any]:
    return {"x": _normal(rng, tokens, 2 * 96)}


def _paged_attention(rng: np.random.Generator, tokens: int) -> dict[str, Any]:
    # Two chunks of `tokens` query tokens, after 5 and 9 cached ones; two sequences that decode one token each.
    return {
        "query": _normal(rng, 2 * tokens + 2, 4, 32),
        "kv_cache": _normal(rng, 64 * 2 * 2, 32, 32),
        "block_table": rng.permutation(63)[: 4 * 8].reshape(4, 8) + 1,
        "query_start": [0, tokens, 2 * tokens, 2 * tokens + 1, 2 * tokens + 2],
        "seq_lens": [tokens + 5, tokens + 9, 1, 37],
        "scale": 32**-0.5,
        "num_kv_heads": 2,
    }


EMBEDDING = OpSpec("embedding", "rows ``ids`` [T] of ``weight`` [V, N] -> [T, N]", _embedding)

LINEAR = OpSpec(
    "linear", "``x`` [T, K] times ``weight`` [M, K] transposed, plus ``bias`` [M] -> [T, M]", _linear
)

RMS_NORM = OpSpec(
    "rms_norm", "``x / sqrt(mean(x**2) + eps) * weight`` over the last axis: [T, N] -> [T, N]", _rms_norm
)

FUSED_ADD_RMS_NORM = OpSpec(
    "fused_add_rms_norm",
    "``residual += x``; returns (rms_norm of the new residual, the new residual), both [T, N]",
    _fused_add_rms_norm,
    overwrites=("x", "residual"),
)

QK_NORM = OpSpec(
    "qk_norm",
    "rms_norm of every query head by ``q_weight`` [D] and every key head by ``k_weight`` [D] inside ``qkv``",
    _qk_norm,
    overwrites=("qkv",),
)

ROTARY_EMBEDDING = OpSpec(
    "rotary_embedding",
    "rotates the query and key heads of ``qkv`` by halves (the layout of GPT-NeoX), or, with ``interleaved``, by "
    "pairs of neighbours (GPT-J), by row ``positions[t]`` [T] of ``cos_sin_cache`` [max, R]: R/2 cosines, then R/2 "
    "sines; only the first R entries of a head turn",
    _rotary_embedding,
    overwrites=("qkv",),
)

SILU_AND_MUL = OpSpec("silu_and_mul", "``silu(x[:, :I]) * x[:, I:]``: [T, 2 I] -> [T, I]", _gated)

GELU_AND_MUL = OpSpec("gelu_and_mul", "``gelu(x[:, :I]) * x[:, I:]``, exact GELU: [T, 2 I] -> [T, I]", _gated)

GELU_TANH_AND_MUL = OpSpec(
    "gelu_tanh_and_mul", "``gelu(x[:, :I]) * x[:, I:]``, tanh-approximated: [T, 2 I] -> [T, I]", _gated
)

PAGED_ATTENTION = OpSpec(
    "paged_attention",
    "causal attention of ``query`` [T, H, D] on the pages of ``kv_cache`` [2 G blocks, block, D] that "
    "``block_table`` [B, max blocks] names: row 2 (G b + g) holds the keys of head g in block b, the next row the "
    "values; sequence b owns queries ``query_start[b]`` to ``query_start[b + 1]``, the last of its "
    "``seq_lens[b]`` tokens -> [T, H D]. ``sliding_window`` w hides keys w and more behind; "
    "``softcap`` c maps scores to ``c tanh(scores / c)``",
    _paged_attention,
)

SPECS: Mapping[str, OpSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            EMBEDDING,
            LINEAR,
            RMS_NORM,
            FUSED_ADD_RMS_NORM,
            QK_NORM,
            ROTARY_EMBEDDING,
            SILU_AND_MUL,
            GELU_AND_MUL,
            GELU_TANH_AND_MUL,
            PAGED_ATTENTION,
        )
    }
)
