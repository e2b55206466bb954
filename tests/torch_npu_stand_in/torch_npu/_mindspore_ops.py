"""Ascend's ops of MindSpore's, by its stock ops, which CPU has: in float32, rounded at the end."""


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
