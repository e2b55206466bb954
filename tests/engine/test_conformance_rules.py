"""What conformance lets pass and what it doesn't, on numbers and modules made for it: no engine runs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import pytest

from mszoo.conformance import LibraryCopiesError, ModelConformance
from mszoo.conformance.checkpoints import Checkpoint, make_checkpoint
from mszoo.conformance.copies import CopyCounter, Place
from mszoo.conformance.engines import Answer
from mszoo.conformance.shadow import _layers

MIXTURE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_experts": 8,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}
DENSE = {
    name: value for name, value in MIXTURE.items() if "experts" not in name and not name.startswith("moe")
}
DENSE |= {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
DENSE.pop("norm_topk_prob")
LENGTHS = (1, 7, 33, 97)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], Checkpoint]:
    def make(config: dict[str, Any]) -> Checkpoint:
        name = config["architectures"][0]
        return make_checkpoint(config, name, tmp_path_factory.mktemp("model"), lambda _: {})

    return make


def judge(checkpoint: Checkpoint, change: Callable[[Any], None], lengths: tuple[int, ...] = LENGTHS) -> None:
    """Let conformance judge answers of Hugging Face's model in bfloat16, changed in some way."""
    model = copy.deepcopy(checkpoint.model)
    change(model)
    model = model.to(torch.bfloat16)
    answers = []
    for length in lengths:
        generator = torch.Generator().manual_seed(length)
        tokens = torch.randint(3, 256, (length + 8,), generator=generator).tolist()
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0, :-1].float()
        answers.append(Answer(tokens[:length], tokens[length:], logits, 0.0))
    tolerance = ModelConformance.tolerance["bfloat16"]
    ModelConformance().compare(checkpoint, answers, tolerance, dtype="bfloat16")


def nothing(model: Any) -> None:
    """Leave the model right."""


def other_gates(model: Any) -> None:
    for module in model.modules():
        if hasattr(module, "norm_topk_prob"):
            module.norm_topk_prob = False


def a_lost_expert(model: Any) -> None:
    for layer in model.model.layers:
        layer.mlp.experts.down_proj.data[3] = 0


def turned_experts(model: Any) -> None:
    for layer in model.model.layers:
        layer.mlp.experts.gate_up_proj.data = layer.mlp.experts.gate_up_proj.data.roll(1, 0)


def a_plain_norm(model: Any) -> None:
    model.model.layers[1].post_attention_layernorm.weight.data.fill_(1)


def test_near_ties_of_a_router_are_no_fault(made) -> None:
    """Hugging Face's own bfloat16 is off by more than the tolerance, in a few tokens."""
    judge(made(MIXTURE), nothing)


@pytest.mark.parametrize("fault", [other_gates, a_lost_expert, turned_experts])
def test_a_wrong_mixture_in_16_bits_is_caught(fault: Callable[[Any], None], made) -> None:
    with pytest.raises(pytest.fail.Exception, match="5e-02 is allowed"):
        judge(made(MIXTURE), fault)


def test_a_dense_model_gets_the_tolerance_and_no_more(made) -> None:
    judge(made(DENSE), nothing)
    with pytest.raises(pytest.fail.Exception, match="5e-02 is allowed"):
        judge(made(DENSE), a_plain_norm)


def test_experts_are_no_layers() -> None:
    def mixture() -> torch.nn.Module:
        layer = torch.nn.Module()
        layer.experts = torch.nn.ModuleList(torch.nn.Identity() for _ in range(8))
        return layer

    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList(mixture() for _ in range(2))
    assert _layers(model) == list(model.layers)
    # As in the tree of a suite's model, whose lists are plain modules.
    tree, layers = torch.nn.Module(), torch.nn.Module()
    tree.layers = layers
    for index in range(2):
        layers.add_module(str(index), mixture())
    assert _layers(tree) == list(layers.children())
    assert _layers(torch.nn.Identity()) == []


class Judge(ModelConformance):
    architecture = "some.ForCausalLM"
    library_modules = ("library", "adapter.kernels")


@pytest.mark.parametrize("module", ["library", "library.models.llama", "adapter.kernels"])
def test_copies_of_a_library_are_told_apart(module: str) -> None:
    theirs = Place("aten::clone", module, "modeling.py:7")
    Judge().judge_copies({}, 4)
    with pytest.raises(LibraryCopiesError, match=r"2 copies in 4 steps: aten::clone at modeling\.py:7: 2"):
        Judge().judge_copies({theirs: 2}, 4)


@pytest.mark.parametrize("module", ["adapter", "adapter.attention", "library2"])
def test_a_copy_of_the_adapter_fails_beside_those_of_a_library(module: str) -> None:
    places = {Place("aten::clone", "library", "x.py:7"): 2, Place("aten::clone", module, "y.py:1"): 1}
    with pytest.raises(AssertionError, match=r"^1 copies in 4 steps: aten::clone at y\.py:1: 1") as raised:
        Judge().judge_copies(places, 4)
    assert raised.type is AssertionError


def test_a_place_knows_its_module() -> None:
    with CopyCounter() as counter:
        torch.ones(3).clone()
    (place,) = counter.places
    assert place.module == __name__
    assert Path(place.line.partition(":")[0]).name == Path(__file__).name
