"""MindSpore One's files computed by torch give what they give computed by MindSpore, on the same memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mszoo.kernels import runtime

runtime.prepare("cpu")

import numpy as np  # noqa: E402

import mindspore as ms  # noqa: E402  isort: skip
from mszoo.adapters.mindone import importer, torch_ops  # noqa: E402
from mszoo.kernels.exchange import to_torch  # noqa: E402

TOY = """
import mindspore as ms
from mindspore import mint, ops


def arithmetic(x, y):
    z = -x + y * 2 - x / 3 + y ** 2
    z += x
    z *= 0.5
    return z


def product(x, y):
    return x @ y.swapaxes(-1, -2)


def rotated(x, y):
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return mint.cat((-second, first), dim=-1) * y.cos() + x * y.sin()


def heads(x, y):
    z = x.view(2, 6, 2, 4).transpose(1, 2).contiguous()
    return z.reshape(2, 2, -1)[:, 1].unsqueeze(1) + y.mean(-1, keepdim=True).to(ms.float32).sum()


def parts(x, y):
    a, b = x.chunk(2, dim=-1)
    c, d = ops.split(y, 4, axis=-1)
    return ops.cat([a * b, mint.nn.functional.softmax(c, dim=-1, dtype=ms.float32)], axis=0) + d.pow(2)[0]


def chosen(x, y):
    return x[y[..., :2].argmax(-1)[0]] + ops.gather(x, ms.Tensor([1, 0]), 0)[0]
"""
PLAIN = '''
class Tree:
    """Not a tensor: its operators and methods are its own."""

    def __add__(self, other):
        return "added"

    def __neg__(self):
        return "negated"

    def __getitem__(self, index):
        return index

    def view(self, *shape):
        return shape


def others():
    count, words, tree = 1, ["a"], Tree()
    count += 2
    words = words + ["b"]
    made = tree + 1, -tree, tree[1:2], tree.view(3)
    return made, count, words, words[0], words[-1:], 7 / 2, "x" * 3, {"k": 5}["k"]
'''


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Any]:
    """Return a maker of the toy family: by torch, or as MindSpore One's files run by themselves."""
    root = tmp_path_factory.mktemp("site") / "mindone"
    family = root / "transformers" / "models" / "toy"
    family.mkdir(parents=True)
    for folder in (root, root / "transformers", root / "transformers" / "models", family):
        (folder / "__init__.py").write_text("")
    (family / "modeling_toy.py").write_text(TOY + PLAIN)

    def make(by_torch: bool) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(root.parent))
            if by_torch:
                methods = (*importer.METHODS_WITHOUT_CPU_KERNEL, *torch_ops.METHODS)
                suite = importer.Suite({}, methods, by_torch=True)
            else:
                suite = importer.Suite({}, ())
            return suite.load("mindone.transformers.models.toy.modeling_toy")

    return make


@pytest.mark.parametrize("name", ["arithmetic", "product", "rotated", "heads", "parts", "chosen"])
def test_the_result_is_mindspores(name: str, load) -> None:
    generator = np.random.default_rng(0)
    x, y = (ms.Tensor(generator.standard_normal((2, 6, 8)).astype(np.float32)) for _ in range(2))
    before = x.asnumpy().copy()
    expected = getattr(load(False), name)(x, y)
    got = getattr(load(True), name)(x, y)
    assert isinstance(got, ms.Tensor)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    assert np.allclose(to_torch(got).numpy(), expected.asnumpy(), rtol=1e-5, atol=1e-6)
    assert np.array_equal(x.asnumpy(), before), "an argument was overwritten"


def test_what_is_no_tensor_is_left_alone(load) -> None:
    assert load(True).others() == load(False).others()


def test_a_view_shares_memory() -> None:
    x = ms.Tensor(np.zeros((2, 3), np.float32))
    view = torch_ops.item(x, (slice(None), 1))
    to_torch(view).fill_(5.0)
    assert x.asnumpy()[:, 1].tolist() == [5.0, 5.0]
