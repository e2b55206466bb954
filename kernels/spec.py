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
#: Makes empty results of the right shape and dtype from an op's tensors of torch's.
Fake = Callable[..., Any]

_TOLERANCE = MappingProxyType({"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2})


@dataclass(frozen=True)
class OpSpec:
    """One op.

    Attributes:
        name: what kernel sets call it.
        meaning: the computation, with shapes.
        schema: its arguments and results in the language of torch's schemas.
        example: makes arguments by name for a given number of tokens: float32 or integer numpy arrays, and
            plain Python values. A test casts the float arrays to the dtype under test.
        fake: what torch.compile runs in place of the op.
        overwrites: arguments that an implementation may overwrite; callers must not use them afterwards.
        tolerance: largest absolute error against the same computation in float64, relative to the largest
            absolute value of the result, by dtype.
    """

    name: str
    meaning: str
    schema: str
    example: Example
    fake: Fake
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


def _elementwise(rng: np.random.Generator, tokens: int) -> dict[str, Any]:
    return {"x": _normal(rng, tokens, 96)}


def _layer_norm(rng: np.random.Generator, tokens: int) -> dict[str, Any]:
    weight, bias = _normal(rng, 64), _normal(rng, 64)
    return {"x": _normal(rng, tokens, 64)} | {"weight": weight, "bias": bias, "eps": 1e-5}


def _gated(rng: np.random.Generator, tokens: int) -> dict[str, Any]:
    return {"x": _normal(rng, tokens, 2 * 96)}


def _encoder_attention(rng: np.random.Generator, tokens: int) -> dict[str, Any]:
    return {
        "qkv": _normal(rng, 3 * tokens, 3 * 4 * 32),
        "num_sequences": 3,
        "num_heads": 4,
        "scale": 32**-0.5,
    }


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


def _like(first: Any, *_: Any, **__: Any) -> Any:
    return first.new_empty(first.shape)


def _third_as_wide(x: Any, *_: Any) -> Any:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 3))


def _half_as_wide(x: Any) -> Any:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))


EMBEDDING = OpSpec(
    "embedding",
    "rows ``ids`` [T] of ``weight`` [V, N] -> [T, N]",
    "(Tensor ids, Tensor weight) -> Tensor",
    _embedding,
    lambda ids, weight: weight.new_empty((*ids.shape, weight.shape[-1])),
)

LINEAR = OpSpec(
    "linear",
    "``x`` [T, K] times ``weight`` [M, K] transposed, plus ``bias`` [M] -> [T, M]",
    "(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor",
    _linear,
    lambda x, weight, bias=None: x.new_empty((*x.shape[:-1], weight.shape[0])),
)

RMS_NORM = OpSpec(
    "rms_norm",
    "``x / sqrt(mean(x**2) + eps) * weight`` over the last axis: [T, N] -> [T, N]",
    "(Tensor x, Tensor weight, float eps) -> Tensor",
    _rms_norm,
    _like,
)

LAYER_NORM = OpSpec(
    "layer_norm",
    "``(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`` over the last axis, either may be None: "
    "[T, N] -> [T, N]",
    "(Tensor x, Tensor? weight, Tensor? bias, float eps) -> Tensor",
    _layer_norm,
    _like,
)

FUSED_ADD_RMS_NORM = OpSpec(
    "fused_add_rms_norm",
    "``residual += x``; returns (rms_norm of the new residual, the new residual), both [T, N]",
    "(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor)",
    _fused_add_rms_norm,
    lambda x, residual, weight, eps: (_like(x), _like(residual)),
    overwrites=("x", "residual"),
)

QK_NORM = OpSpec(
    "qk_norm",
    "rms_norm of every query head by ``q_weight`` [D] and every key head by ``k_weight`` [D] inside ``qkv``",
    "(Tensor qkv, Tensor q_weight, Tensor k_weight, float eps, int num_heads, int num_kv_heads) -> Tensor",
    _qk_norm,
    _like,
    overwrites=("qkv",),
)

ROTARY_EMBEDDING = OpSpec(
    "rotary_embedding",
    "rotates the query and key heads of ``qkv`` by halves (the layout of GPT-NeoX), or, with ``interleaved``, by "
    "pairs of neighbours (GPT-J), by row ``positions[t]`` [T] of ``cos_sin_cache`` [max, R]: R/2 cosines, then R/2 "
    "sines; only the first R entries of a head turn",
    "(Tensor positions, Tensor qkv, Tensor cos_sin_cache, int num_heads, int num_kv_heads, "
    "bool interleaved=False) -> Tensor",
    _rotary_embedding,
    lambda positions, qkv, *_, **__: _like(qkv),
    overwrites=("qkv",),
)


def _activation(name: str, meaning: str) -> OpSpec:
    return OpSpec(name, f"``{meaning}``: [T, I] -> [T, I]", "(Tensor x) -> Tensor", _elementwise, _like)


def _gated_activation(name: str, meaning: str) -> OpSpec:
    meaning = f"``{meaning}``: [T, 2 I] -> [T, I]"
    return OpSpec(f"{name}_and_mul", meaning, "(Tensor x) -> Tensor", _gated, _half_as_wide)


SILU = _activation("silu", "x * sigmoid(x)")
GELU = _activation("gelu", "x * Phi(x)")
GELU_TANH = _activation("gelu_tanh", "0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))")
RELU = _activation("relu", "max(x, 0)")
RELU2 = _activation("relu2", "max(x, 0)**2")
QUICK_GELU = _activation("quick_gelu", "x * sigmoid(1.702 * x)")

SILU_AND_MUL = _gated_activation("silu", "silu(x[:, :I]) * x[:, I:]")
GELU_AND_MUL = _gated_activation("gelu", "gelu(x[:, :I]) * x[:, I:]")
GELU_TANH_AND_MUL = _gated_activation("gelu_tanh", "gelu_tanh(x[:, :I]) * x[:, I:]")

ENCODER_ATTENTION = OpSpec(
    "encoder_attention",
    "attention of the heads in ``qkv`` [B T, 3 H D], as many of keys and values as of queries, in "
    "``num_sequences`` B sequences of equal length: each token sees its whole sequence -> [B T, H D]",
    "(Tensor qkv, int num_sequences, int num_heads, float scale) -> Tensor",
    _encoder_attention,
    _third_as_wide,
)

PAGED_ATTENTION = OpSpec(
    "paged_attention",
    "causal attention of ``query`` [T, H, D] on the pages of ``kv_cache`` [2 G blocks, block, D] that "
    "``block_table`` [B, max blocks] names: row 2 (G b + g) holds the keys of head g in block b, the next row the "
    "values; sequence b owns queries ``query_start[b]`` to ``query_start[b + 1]``, the last of its "
    "``seq_lens[b]`` tokens -> [T, H D]. ``sliding_window`` w hides keys w and more behind; "
    "``softcap`` c maps scores to ``c tanh(scores / c)``",
    "(Tensor query, Tensor kv_cache, Tensor block_table, int[] query_start, int[] seq_lens, float scale, "
    "int num_kv_heads, int? sliding_window=None, float softcap=0.0) -> Tensor",
    _paged_attention,
    lambda query, kv_cache, *_: query.new_empty((query.shape[0], query.shape[1] * query.shape[2])),
)

#: Every op, by name.
SPECS: Mapping[str, OpSpec] = MappingProxyType(
    {spec.name: spec for spec in tuple(globals().values()) if isinstance(spec, OpSpec)}
)
