"""The shapes that MindSpore meets: few enough to keep something for each of them.

MindSpore never frees what it makes for a new shape. Which of its ops make something, what it takes, and how each is
bounded, is said in kernels/README.md; a gather is one of them, so its rows are rounded up.
"""

from __future__ import annotations


def rounded_up(count: int) -> int:
    """Return ``count`` up to 8, and beyond the next number of which there are four between powers of two.

    It is less than 1.25 times as much.
    """
    if count <= 8:
        return count
    step = 1 << (count - 1).bit_length() - 3
    return -(-count // step) * step
