"""Ascend's ops of MindSpore's, by its stock ops, which CPU has: in float32, rounded at the end."""

import functools


def _wide(x):
    import mindspore

    return x.astype(mindspore.float32)


def rms_norm(x, gamma, epsilon=1e-6):
    """Return the norm over the last axis, and the reciprocal of the root mean square."""
    from mindspore import ops

    wide = _wide(x)
    reciprocal = ops.rsqrt(ops.ReduceMean(keep_dims=True)(ops.square(wide), -1) + epsilon)
    return (wide * reciprocal * _wide(gamma)).astype(x.dtype), reciprocal


def add_rms_norm(x1, x2, gamma, epsilon=1e-6):
    """Return the norm of the sum, its reciprocal of the root mean square, and the sum."""
    total = x1 + x2
    return *rms_norm(total, gamma, epsilon), total


def swiglu(x, dim=-1):
    """Return ``silu`` of the first half, times the second."""
    from mindspore import ops

    gate, up = ops.split(_wide(x), x.shape[dim] // 2, dim)
    return (ops.silu(gate) * up).astype(x.dtype)


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5):
    """Return the norm of mean and variance over the last axis, times ``weight``, plus ``bias``."""
    from mindspore import ops

    assert tuple(normalized_shape) == (x.shape[-1],), "torch_npu's stand-in norms the last axis"
    mean, wide = ops.ReduceMean(keep_dims=True), _wide(x)
    centred = wide - mean(wide, -1)
    normed = centred * ops.rsqrt(mean(ops.square(centred), -1) + eps)
    normed = normed if weight is None else normed * _wide(weight)
    return (normed if bias is None else normed + _wide(bias)).astype(x.dtype)


class ApplyRotaryPosEmb:
    """Turn heads of queries and keys [T, heads R] by cosines and sines [T, R]: a sequence of one token each.

    Args:
        cos_format: 2: halves of a head turn; 3: pairs of neighbours.
    """

    def __init__(self, cos_format=0):
        self.cos_format = cos_format

    def __call__(self, query, key, cos, sin, lens):
        from mindspore import float32, ops

        assert self.cos_format in (2, 3), "torch_npu's stand-in turns in formats 2 and 3"
        assert query.dtype == key.dtype != float32, "Ascend's op takes no float32"
        assert lens.shape == query.shape[:1], "torch_npu's stand-in turns sequences of one token"
        (tokens, size), results = cos.shape, []
        cos, sin = (_wide(item).reshape(tokens, 1, size) for item in (cos, sin))
        for x in (query, key):
            heads = _wide(x).reshape(tokens, -1, size)
            if self.cos_format == 3:
                turned = ops.stack((-heads[..., 1::2], heads[..., ::2]), -1).reshape(heads.shape)
            else:
                turned = ops.cat((-heads[..., size // 2 :], heads[..., : size // 2]), -1)
            results.append((heads * cos + turned * sin).astype(x.dtype).reshape(x.shape))
        return tuple(results)


OPS = {
    "rms_norm": rms_norm,
    "add_rms_norm": add_rms_norm,
    "swiglu": swiglu,
    "ApplyRotaryPosEmb": ApplyRotaryPosEmb,
}
FUNCTIONAL = {"layer_norm": layer_norm}  # of mint.nn.functional


def _widened(function):
    """Let an op compute in float32 and round once where it is given bfloat16, in which CPU lacks it."""

    @functools.wraps(function)
    def run(*args, **kwargs):
        from mindspore import Tensor, bfloat16

        dtypes = {item.dtype for value in args for item in _tensors(value, Tensor)}
        if bfloat16 not in dtypes:
            return function(*args, **kwargs)
        return function(*(_each(value, Tensor, bfloat16) for value in args), **kwargs).astype(bfloat16)

    return run


def _tensors(value, kind):
    for item in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(item, kind):
            yield item


def _each(value, kind, dtype):
    if isinstance(value, (list, tuple)):
        return type(value)(_each(item, kind, dtype) for item in value)
    return _wide(value) if isinstance(value, kind) and value.dtype == dtype else value


def _primitive(kind):
    """Return what makes primitives that are widened."""
    return lambda *args, **kwargs: _widened(kind(*args, **kwargs))


#: Ops of mindspore.ops that CPU has for other dtypes, and what makes one of them take bfloat16.
WIDENED = dict.fromkeys(
    ("gather", "stack", "silu", "sigmoid", "softmax", "gelu", "relu", "square"), _widened
) | {
    "MatMul": _primitive,
    "BatchMatMul": _primitive,
}
