"""What code of a plugin's returns in a step: looked at before anybody reads its memory; no engine starts here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

import pytest

from mszoo.adapters.vllm.log import log
from mszoo.adapters.vllm.models import heads, wrapper
from mszoo.adapters.vllm.ops.kernels import choose_loadable_kernels
from mszoo.conformance.reference import example
from mszoo.kernels import dispatch, mindspore_set, runtime
from mszoo.kernels.spec import SPECS
from mszoo.registry import ModelAdapter, OpAdapter
from mszoo.registry.errors import PluginError

from .test_bridge_messages import make_catalog

runtime.prepare("cpu")
from mszoo.kernels.exchange import to_mindspore, to_torch  # noqa: E402

import mindspore as ms  # noqa: E402

WRONG = {
    "fewer_rows": (lambda y: y[:1], "gave [1, 64] of float32, not [3, 64] of float32"),
    "narrower": (lambda y: y[:, :7], "gave [3, 7] of float32, not [3, 64] of float32"),
    "flat": (lambda y: y.reshape(-1), "gave [192] of float32, not [3, 64] of float32"),
    "other_dtype": (lambda y: y.astype(ms.float16), "gave [3, 64] of float16, not [3, 64] of float32"),
    "integers": (lambda y: y.astype(ms.int32), "gave [3, 64] of int32, not [3, 64] of float32"),
    "nothing": (lambda y: None, "gave None, not [3, 64] of float32"),
    "of_torch": (to_torch, "gave a Tensor, not [3, 64] of float32"),
    "of_numpy": (lambda y: y.asnumpy(), "gave a ndarray, not [3, 64] of float32"),
    "a_pair": (lambda y: (y, y), "gave [3, 64] of float32 and [3, 64] of float32, not [3, 64] of float32"),
    "a_lie": (
        lambda y: type("Lying", (), {"__class__": ms.Tensor, "shape": y.shape, "dtype": y.dtype})(),
        "gave a Lying, not [3, 64] of float32",
    ),
}


def rms_norm(*args: Any) -> Any:
    return WRONG[chosen[0]][0](mindspore_set.rms_norm(*args))


def fused_add_rms_norm(*args: Any) -> Any:
    return mindspore_set.fused_add_rms_norm(*args)[:1]


chosen = [""]


def kernels_with(*ops: str) -> dispatch.Kernels:
    """Return the kernels of a model where a plugin's ops of this module run."""
    adapters = [OpAdapter(op, f"{__name__}:{op}", "demo", dtypes=["float32"], priority=1) for op in ops]
    kernels, failures = choose_loadable_kernels(make_catalog("ops", *adapters), "auto", "float32")
    assert failures == []
    return kernels


def arguments(op: str) -> list[Any]:
    given = example(op, 3, torch.float32).values()
    return [to_mindspore(value) if isinstance(value, torch.Tensor) else value for value in given]


@pytest.mark.parametrize("case", WRONG)
def test_an_op_that_returns_something_else_is_named_with_who_gave_it(case: str) -> None:
    chosen[0] = case
    op = kernels_with("rms_norm").function("rms_norm")
    with pytest.raises(PluginError) as raised:
        op(*arguments("rms_norm"))
    assert str(raised.value).startswith(f"{__name__}:rms_norm of one of ")
    assert f"rms_norm {WRONG[case][1]}. " in str(raised.value)
    assert "or set MSZOO_DISABLE=one to go on without it" in raised.value.hint


def test_an_op_with_two_results_returns_two() -> None:
    op = kernels_with("fused_add_rms_norm").function("fused_add_rms_norm")
    with pytest.raises(
        PluginError, match=r"gave \[3, 64\] of float32, not \[3, 64\] of float32 and \[3, 64\]"
    ):
        op(*arguments("fused_add_rms_norm"))


@pytest.mark.parametrize("name", SPECS)
def test_an_op_that_keeps_to_its_spec_passes(name: str) -> None:
    from mszoo.kernels.checked import checked

    given = arguments(name)
    op = checked(name, getattr(mindspore_set, name), "who", "Mend it.")
    op(*given)


def model_of(network: Any, kind: type[wrapper.MindSporeModel] = wrapper.MindSporeCausalLM) -> Any:
    """Return vLLM's side of a network."""
    (candidate,) = make_catalog("models", ModelAdapter("A", "nowhere:A")).decide("A").chain
    model = object.__new__(kind)
    vars(model).update(network=network, candidate=candidate, role="target", forwards=1)
    return model


def head_of(method: str, network: Any) -> Any:
    return model_of(network, heads.HEADS[method])


STATES = torch.zeros(2, 4)
FEWER = ms.Tensor([[0.0]])
PAIR = (ms.Tensor([[0.0], [0.0]]), FEWER)


@pytest.mark.parametrize("method", ["eagle", "mtp"])
@pytest.mark.parametrize(
    ("given", "what"),
    [
        (None, "a step gave None"),
        (FEWER, "a step gave hidden states [1, 1] of 2 tokens"),
        (PAIR, "a step gave hidden states [1, 1] of 2 tokens"),
        ((*PAIR, FEWER), "a step gave a tuple instead of hidden states, a tensor of MindSpore's"),
    ],
)
def test_a_heads_step_that_gives_something_else_is_named(method: str, given: Any, what: str) -> None:
    ids = torch.zeros(2, dtype=torch.int32)
    with pytest.raises(PluginError) as raised:
        head_of(method, Network(given)).forward(ids, torch.arange(2), STATES)
    assert str(raised.value).startswith("one.A of ")
    assert what in str(raised.value)


@pytest.mark.parametrize("method", heads.HEADS)
def test_what_a_head_gives_is_handed_on(method: str) -> None:
    good = ms.Tensor([[1.0, 2.0], [3.0, 4.0]])
    if method == "medusa":
        (made,) = head_of(method, Network([good])).forward(STATES)
        assert made.tolist() == [[1.0, 2.0], [3.0, 4.0]]
        return
    arguments = (torch.zeros(2, dtype=torch.int32), torch.arange(2), STATES)
    assert head_of(method, Network(good)).forward(*arguments).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    first, second = head_of(method, Network((good, good + 1))).forward(*arguments)
    assert (first.tolist(), second.tolist()) == ([[1.0, 2.0], [3.0, 4.0]], [[2.0, 3.0], [4.0, 5.0]])
    logits = head_of(method, Network(logits=good)).compute_logits(STATES)
    assert logits.tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize("method", ["eagle", "eagle3", "mtp"])
def test_a_heads_logits_that_are_something_else_are_named(method: str) -> None:
    with pytest.raises(PluginError, match=r"a step gave logits \[1, 1\] of 2 tokens"):
        head_of(method, Network(logits=FEWER)).compute_logits(STATES)


def test_what_eagle_3_reads_is_looked_at() -> None:
    with pytest.raises(PluginError, match=r"a step gave hidden states \[1, 1\] of 2 tokens"):
        head_of("eagle3", SimpleNamespace(combine=lambda _: FEWER)).combine_hidden_states(STATES)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (None, "a step gave None instead of hidden states for each of its heads"),
        ([], "a step gave 0 of hidden states instead of hidden states for each of its heads"),
        ([FEWER], "a step gave hidden states [1, 1] of 2 tokens"),
    ],
)
def test_medusas_step_that_gives_something_else_is_named(given: Any, what: str) -> None:
    with pytest.raises(PluginError) as raised:
        head_of("medusa", Network(given)).forward(STATES)
    assert what in str(raised.value)


def test_medusas_logits_that_are_something_else_are_named() -> None:
    good = ms.Tensor([[0.0], [0.0]])
    assert len(head_of("medusa", Network(logits=[good])).compute_logits([STATES])) == 1
    assert head_of("medusa", Network(logits=[])).compute_logits([STATES]) == []
    for given, what in (
        ([good, good], "a step gave 2 of logits instead of logits for each of its heads"),
        ([FEWER], r"a step gave logits \[1, 1\] of 2 tokens"),
    ):
        with pytest.raises(PluginError, match=what):
            head_of("medusa", Network(logits=given)).compute_logits([STATES])


@pytest.mark.parametrize("method", heads.HEADS)
def test_a_head_that_exits_doesnt_end_the_worker(method: str) -> None:
    def exits(*_: Any) -> Any:
        raise SystemExit(3)

    head = head_of(method, SimpleNamespace(compute_logits=exits, combine=exits))
    with pytest.raises(PluginError, match=r"making logits raised SystemExit: 3 \("):
        head.compute_logits([STATES] if method == "medusa" else STATES)
    head = head_of(method, exits)
    arguments = (torch.zeros(2, dtype=torch.int32), torch.arange(2), STATES)
    with pytest.raises(PluginError, match=r"a step raised SystemExit: 3 \("):
        head.forward(*(arguments[2:] if method == "medusa" else arguments))


class Network:
    """A network of a plugin's: two tokens."""

    def __init__(self, hidden_states: Any = None, logits: Any = None) -> None:
        self.hidden_states, self.logits = hidden_states, logits

    def __call__(self, *_: Any) -> Any:
        return self.hidden_states

    def compute_logits(self, hidden_states: Any) -> Any:
        return self.logits


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (None, "a step gave None"),
        (torch.zeros(2, 4), "a step gave a Tensor instead of hidden states, a tensor of MindSpore's"),
        (ms.Tensor([[0.0], [0.0], [0.0]]), "a step gave hidden states [3, 1] of 2 tokens"),
        (ms.Tensor([0.0, 0.0]), "a step gave hidden states [2] of 2 tokens"),
        (ms.Tensor([[0], [0]]), "a step gave hidden states of int64"),
    ],
)
def test_a_step_that_gives_something_else_is_named(given: Any, what: str) -> None:
    with pytest.raises(PluginError) as raised:
        model_of(Network(given)).forward(None, torch.arange(2))
    assert str(raised.value).startswith("one.A of ")
    assert what in str(raised.value)


def test_logits_of_something_else_are_named() -> None:
    model = model_of(Network(logits=ms.Tensor([[0.0]])))
    with pytest.raises(PluginError, match=r"a step gave logits \[1, 1\] of 2 tokens"):
        model.compute_logits(torch.zeros(2, 4))


def test_making_logits_that_exits_doesnt_end_the_worker() -> None:
    def exits(_: Any) -> Any:
        raise SystemExit(3)

    network = SimpleNamespace(compute_logits=exits, embed_input_ids=exits)
    with pytest.raises(PluginError) as raised:
        model_of(network).compute_logits(torch.zeros(2, 4))
    assert "making logits raised SystemExit: 3 (" in str(raised.value)
    with pytest.raises(PluginError, match=r"a look-up raised SystemExit: 3 \("):
        model_of(network).embed_input_ids(torch.zeros(2, dtype=torch.int32))


def test_logits_that_are_nan_are_told_with_the_adapters_name(monkeypatch: Any) -> None:
    lines: list[str] = []
    monkeypatch.setattr(log, "warning_once", lambda text, *values: lines.append(text % values))
    good, bad = torch.zeros(2, 5), torch.zeros(2, 5)
    bad[1] = torch.nan
    model_of(Network(logits=to_mindspore(good))).compute_logits(torch.zeros(2, 4))
    assert lines == []
    model_of(Network(logits=to_mindspore(bad))).compute_logits(torch.zeros(2, 4))
    (line,) = lines
    assert line.startswith("mszoo: one.A of ")
    assert " gives logits that are NaN: its answers mean nothing. " in line
    assert "Compare with MSZOO_DISABLE=1: a weight may be broken, or overflow in this dtype" in line
    head = head_of("eagle", Network(logits=to_mindspore(bad)))
    vars(head).update(role="draft")
    head.compute_logits(torch.zeros(2, 4))
    assert " gives logits that are NaN: its proposals mean nothing. " in lines[-1]
