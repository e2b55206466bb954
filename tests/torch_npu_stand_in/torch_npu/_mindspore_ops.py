"""Ascend's ops of MindSpore's, by its stock ops, which CPU has."""

import functools


def _wide(function):
    """Let an op compute in float32 and round once, as Ascend's kernels do: CPU has few ops in bfloat16."""

    @functools.wraps(function)
    def run(*args, **kwargs):
        import mindspore as ms

        dtypes = []

        def widened(value):
            if isinstance(value, ms.Tensor) and value.dtype == ms.bfloat16:
                dtypes.append(value.dtype)
                return value.astype(ms.float32)
            return tuple(map(widened, value)) if isinstance(value, (list, tuple)) else value

        result = function(*map(widened, args), **{name: widened(value) for name, value in kwargs.items()})
        if not dtypes:
            return result
        if isinstance(result, tuple):
            return tuple(item.astype(dtypes[0]) for item in result)
        return result.astype(dtypes[0])

    return run


def _primitive(kind):
    """Return a class like a primitive's, whose instances compute as :func:`_wide` says."""
    return lambda *args, **kwargs: _wide(kind(*args, **kwargs))


@_wide
def rms_norm(x, gamma, epsilon=1e-6):
    """Return the norm over the last axis, and the reciprocal of the root mean square."""
    from mindspore import ops

    reciprocal = ops.rsqrt(ops.ReduceMean(keep_dims=True)(ops.square(x), -1) + epsilon)
    return x * reciprocal * gamma, reciprocal


@_wide
def add_rms_norm(x1, x2, gamma, epsilon=1e-6):
    """Return the norm of the sum, its reciprocal of the root mean square, and the sum."""
    total = x1 + x2
    return *rms_norm(total, gamma, epsilon), total


@_wide
def swiglu(x, dim=-1):
    """Return ``silu`` of the first half, times the second."""
    from mindspore import ops

    gate, up = ops.split(x, x.shape[dim] // 2, dim)
    return ops.silu(gate) * up


@_wide
def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5):
    """Return the norm over the last axis, centred."""
    from mindspore import ops

    assert len(normalized_shape) == 1
    mean = ops.ReduceMean(keep_dims=True)
    centred = x - mean(x, -1)
    normed = centred * ops.rsqrt(mean(ops.square(centred), -1) + eps)
    normed = normed if weight is None else normed * weight
    return normed if bias is None else normed + bias


class ApplyRotaryPosEmb:
    """Rotates queries and keys [T, heads * D] by a row [T, D] of cosines and sines for each token.

    Args:
        rotary_coeff: 2 rotates a head's halves, 3 its pairs of neighbours.
    """

    def __init__(self, rotary_coeff=2):
        if rotary_coeff not in (2, 3):
            raise NotImplementedError(f"no rotary_coeff {rotary_coeff} in the stand-in of ApplyRotaryPosEmb")
        self._pairs = rotary_coeff == 3

    def __call__(self, query, key, cos, sin, batch_valid_length):
        return self._turn(query, cos, sin), self._turn(key, cos, sin)

    def _turn(self, x, cos, sin):
        import mindspore as ms
        from mindspore import ops

        tokens, size = cos.shape
        heads = x.astype(ms.float32).reshape(tokens, -1, size)
        if self._pairs:
            pairs = heads.reshape(tokens, heads.shape[1], size // 2, 2)
            other = ops.stack((-pairs[..., 1], pairs[..., 0]), -1).reshape(heads.shape)
        else:
            first, second = ops.split(heads, size // 2, -1)
            other = ops.cat((-second, first), -1)
        cos, sin = (item.astype(ms.float32).reshape(tokens, 1, size) for item in (cos, sin))
        return (heads * cos + other * sin).reshape(x.shape).astype(x.dtype)


#: In the places of Ascend's, by their names in mindspore.ops.
OPS = {
    "rms_norm": rms_norm,
    "add_rms_norm": add_rms_norm,
    "swiglu": swiglu,
    "ApplyRotaryPosEmb": ApplyRotaryPosEmb,
}
#: Ops of mindspore.ops that CPU has, but not in bfloat16, and what makes one of them take it.
WIDENED = dict.fromkeys(("gather", "stack", "silu", "gelu", "relu", "square"), _wide) | {"MatMul": _primitive}
