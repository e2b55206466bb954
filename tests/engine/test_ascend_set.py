"""The ascend kernel set without an NPU: what MindSpore infers of each op, and what it computes on stand-ins.

MindSpore's own inference of shapes and dtypes runs on a CPU for ops that only Ascend computes: a graph whose result
is a shape needs no kernel. The values are those of stand-ins, which have the meaning of the ``mindspore`` set; that
the primitives have it, only hardware can show.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import pytest

from mszoo.conformance.reference import compare, exact, example, reference
from mszoo.kernels import dispatch, runtime
from mszoo.kernels.spec import SPECS

runtime.prepare("cpu")
from mszoo.kernels import ascend_set, mindspore_set  # noqa: E402
from mszoo.kernels.exchange import to_mindspore, to_torch  # noqa: E402

import mindspore as ms  # noqa: E402

OPS = [op for op in SPECS if op not in dispatch.VLLM_OWNED or hasattr(ascend_set, op)]
DTYPES = ("float32", "bfloat16", "float16")


class Shapes(ms.nn.Cell):
    """A graph of one op, whose results are shapes and dtypes: no kernel is left in it."""

    def __init__(self, op: str) -> None:
        super().__init__()
        self.function = getattr(ascend_set, op)
        self.is_pair = SPECS[op].schema.endswith("(Tensor, Tensor)")

    def construct(self, *values: Any) -> Any:
        result = self.function(*values)
        if self.is_pair:
            return result[0].shape, result[0].dtype, result[1].shape, result[1].dtype
        return result.shape, result.dtype


def inferred(op: str, given: dict[str, Any]) -> Any:
    """Return the shapes and dtypes of an op's results, as MindSpore infers them."""
    graph = Shapes(op)
    graph.construct = ms.jit(graph.construct)
    made = graph(*(to_mindspore(v) if isinstance(v, torch.Tensor) else v for v in given.values()))
    return [(tuple(shape), str(dtype).lower()) for shape, dtype in zip(made[::2], made[1::2], strict=True)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_what_mindspore_infers(op: str, dtype: str) -> None:
    given = example(op, 7, getattr(torch, dtype))
    made = SPECS[op].fake(*given.values())
    expected = [(tuple(item.shape), dtype) for item in (made if isinstance(made, tuple) else (made,))]
    assert inferred(op, given) == expected


@pytest.mark.parametrize(
    ("op", "wrong"),
    [
        ("rms_norm", {"weight": (32,)}),
        ("fused_add_rms_norm", {"residual": (7, 32)}),
        ("layer_norm", {"bias": (32,)}),
        ("silu_and_mul", {"x": (7, 63)}),
    ],
)
def test_the_inference_bites(
    op: str, wrong: dict[str, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # MindSpore writes the graph that it can't infer
    with pytest.raises((ValueError, TypeError, RuntimeError), match=r"(?i)shape|divisible"):
        inferred(op, example(op, 7, torch.float32) | {name: torch.zeros(*of) for name, of in wrong.items()})


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Put stand-ins in the places of the primitives; return the names of those that are called."""
    names: set[str] = set()

    def stand_in(name: str, attribute: str, function: Any) -> None:
        def call(*args: Any) -> Any:
            names.add(name)
            return function(*args)

        monkeypatch.setattr(ascend_set, attribute, call)

    def rotated(query: Any, key: Any, cos: Any, sin: Any, lens: Any, *, pairs: bool) -> Any:
        assert lens.tolist() == [1] * len(query)
        return tuple(
            to_mindspore(_turn(to_torch(x), to_torch(cos), to_torch(sin), pairs)) for x in (query, key)
        )

    stand_in("RmsNorm", "_rms_norm", lambda x, w, eps: (mindspore_set.rms_norm(x, w, eps), None))
    stand_in(
        "AddRmsNorm",
        "_add_rms_norm",
        lambda x, y, w, eps: (mindspore_set.rms_norm(x + y, w, eps), None, x + y),
    )
    stand_in("LayerNormExt", "_layer_norm", lambda x, _, w, b, eps: mindspore_set.layer_norm(x, w, b, eps))
    stand_in("Swiglu", "_swiglu", lambda x, axis: mindspore_set.silu_and_mul(x))
    stand_in("ApplyRotaryPosEmb", "_by_halves", lambda *args: rotated(*args, pairs=False))
    stand_in("ApplyRotaryPosEmb", "_by_pairs", lambda *args: rotated(*args, pairs=True))
    return names


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, pairs: bool) -> torch.Tensor:
    heads = x.view(len(x), -1, cos.shape[-1])
    if pairs:
        other = torch.stack((-heads[..., 1::2], heads[..., ::2]), -1).flatten(-2)
    else:
        first, second = heads.chunk(2, -1)
        other = torch.cat((-second, first), -1)
    return (heads * cos[:, None] + other * sin[:, None]).view(x.shape)


@pytest.mark.parametrize("tokens", [1, 6, 7])
@pytest.mark.parametrize("op", OPS)
def test_what_it_computes_on_stand_ins(op: str, tokens: int, called: set[str]) -> None:
    given = example(op, tokens, torch.float32)
    own = {
        name: to_mindspore(value.clone()) if isinstance(value, torch.Tensor) else value
        for name, value in given.items()
    }
    result = getattr(ascend_set, op)(**own)
    result = tuple(map(to_torch, result)) if isinstance(result, tuple) else to_torch(result)
    compare(op, "float32", result, reference(op, exact(given)))
    if op == "rotary_embedding":  # its primitive takes no float32
        assert not called
        return
    assert called == ({ascend_set.PRIMITIVES[op]} if op in ascend_set.PRIMITIVES else set())


@pytest.mark.parametrize("of", [32, 24])
@pytest.mark.parametrize("tokens", [1, 5, 6])
def test_rotation_in_half_precision(tokens: int, of: int, called: set[str]) -> None:
    """All entries of a head, and a part."""
    given = example("rotary_embedding", tokens, torch.float16)
    given["cos_sin_cache"] = given["cos_sin_cache"][:, :of].contiguous()
    own = {name: to_mindspore(v.clone()) if isinstance(v, torch.Tensor) else v for name, v in given.items()}
    ours = to_torch(ascend_set.rotary_embedding(**own))
    compare("rotary_embedding", "float16", ours, reference("rotary_embedding", exact(given)))
    assert called == {"ApplyRotaryPosEmb"}
