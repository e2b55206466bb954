"""Ascend's ops of MindSpore's, by its stock ops, which CPU has."""


def rms_norm(x, gamma, epsilon=1e-6):
    """Return the norm over the last axis, and the reciprocal of the root mean square."""
    from mindspore import ops

    reciprocal = ops.rsqrt(ops.ReduceMean(keep_dims=True)(ops.square(x), -1) + epsilon)
    return x * reciprocal * gamma, reciprocal


def add_rms_norm(x1, x2, gamma, epsilon=1e-6):
    """Return the norm of the sum, its reciprocal of the root mean square, and the sum."""
    total = x1 + x2
    return *rms_norm(total, gamma, epsilon), total


def swiglu(x, dim=-1):
    """Return ``silu`` of the first half, times the second."""
    from mindspore import ops

    gate, up = ops.split(x, x.shape[dim] // 2, dim)
    return ops.silu(gate) * up


OPS = {"rms_norm": rms_norm, "add_rms_norm": add_rms_norm, "swiglu": swiglu}
