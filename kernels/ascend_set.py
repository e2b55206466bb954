"""The ``ascend`` kernel set: MindSpore's fused ops for Ascend where an op has one, its stock ops elsewhere.

Attention is not here: it belongs to the platform's own backend, which vLLM's layer calls.
No NPU has run any of this. What was checked without one, op by op, is in kernels/README.md.
Shapes: T tokens, H query heads, G key/value heads, D head size, N model width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from mszoo.kernels import mindspore_set
from mszoo.kernels.spec import SPECS

import mindspore as ms
from mindspore import mint, ops

#: By op, the primitive of MindSpore's that only Ascend has; the other ops are stock ones, which CPU runs.
PRIMITIVES: Mapping[str, str] = MappingProxyType(
    {
        "rms_norm": "RmsNorm",
        "fused_add_rms_norm": "AddRmsNorm",
        "qk_norm": "RmsNorm",
        "layer_norm": "LayerNormExt",
        "rotary_embedding": "ApplyRotaryPosEmb",
        "silu_and_mul": "Swiglu",
    }
)

_rms_norm = ops.rms_norm
_add_rms_norm = ops.add_rms_norm
_layer_norm = mint.nn.functional.layer_norm
_swiglu = ops.swiglu
# The numbers are MindSpore Transformers' (RotaryPosEmbMode): a row of the table holds D cosines.
_by_halves = ops.ApplyRotaryPosEmb(2)
_by_pairs = ops.ApplyRotaryPosEmb(3)


def rms_norm(x: ms.Tensor, weight: ms.Tensor, eps: float) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.RMS_NORM`."""
    return _rms_norm(x, weight, eps)[0]


def fused_add_rms_norm(
    x: ms.Tensor, residual: ms.Tensor, weight: ms.Tensor, eps: float
) -> tuple[ms.Tensor, ms.Tensor]:
    """See :data:`mszoo.kernels.spec.FUSED_ADD_RMS_NORM`."""
    normed, _, total = _add_rms_norm(x, residual, weight, eps)
    return normed, total


def qk_norm(
    qkv: ms.Tensor, q_weight: ms.Tensor, k_weight: ms.Tensor, eps: float, num_heads: int, num_kv_heads: int
) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.QK_NORM`."""
    tokens, width = qkv.shape
    heads = qkv.reshape(tokens, num_heads + 2 * num_kv_heads, -1)
    query, key, value = ops.split(heads, [num_heads, num_kv_heads, num_kv_heads], 1)
    parts = (rms_norm(query, q_weight, eps), rms_norm(key, k_weight, eps), value)
    return ops.cat(parts, 1).reshape(tokens, width)


def layer_norm(x: ms.Tensor, weight: ms.Tensor | None, bias: ms.Tensor | None, eps: float) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.LAYER_NORM`."""
    return _layer_norm(x, (x.shape[-1],), weight, bias, eps)


def rotary_embedding(
    positions: ms.Tensor,
    qkv: ms.Tensor,
    cos_sin_cache: ms.Tensor,
    num_heads: int,
    num_kv_heads: int,
    interleaved: bool = False,
) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.ROTARY_EMBEDDING`.

    Each token is to the primitive a sequence of its own, whose row of the table is given. It takes no float32.
    """
    if qkv.dtype == ms.float32:
        return mindspore_set.rotary_embedding(
            positions, qkv, cos_sin_cache, num_heads, num_kv_heads, interleaved
        )
    tokens, width = qkv.shape
    size, turned = width // (num_heads + 2 * num_kv_heads), cos_sin_cache.shape[-1]
    heads = qkv.reshape(tokens, num_heads + 2 * num_kv_heads, size)
    query, key, value = ops.split(heads, [num_heads, num_kv_heads, num_kv_heads], 1)
    cos, sin = ops.split(ops.gather(cos_sin_cache, positions, 0), turned // 2, -1)
    if interleaved:
        turn, cos, sin = _by_pairs, _each_twice(cos), _each_twice(sin)
    else:
        turn, cos, sin = _by_halves, ops.cat((cos, cos), -1), ops.cat((sin, sin), -1)
    of_query = query[..., :turned].reshape(tokens, num_heads * turned)
    of_key = key[..., :turned].reshape(tokens, num_kv_heads * turned)
    of_query, of_key = turn(of_query, of_key, cos, sin, ops.ones((tokens,), ms.int32))
    of_query, of_key = (
        of_query.reshape(tokens, num_heads, turned),
        of_key.reshape(tokens, num_kv_heads, turned),
    )
    if turned < size:
        of_query = ops.cat((of_query, query[..., turned:]), -1)
        of_key = ops.cat((of_key, key[..., turned:]), -1)
    return ops.cat((of_query, of_key, value), 1).reshape(tokens, width)


def silu_and_mul(x: ms.Tensor) -> ms.Tensor:
    """See :data:`mszoo.kernels.spec.SILU_AND_MUL`."""
    return _swiglu(x, -1)


def __getattr__(op: str) -> Callable[..., Any]:
    """Return the stock ops' computation of an op that has no function here: the ``mindspore`` set's."""
    if op in SPECS and op != "paged_attention":
        return getattr(mindspore_set, op)  # type: ignore[no-any-return]
    raise AttributeError(f"module {__name__} has no {op}")


def _each_twice(x: ms.Tensor) -> ms.Tensor:
    """Repeat each number: [T, n] -> [T, 2 n]."""
    tokens, count = x.shape
    return ops.stack((x, x), -1).reshape(tokens, 2 * count)
