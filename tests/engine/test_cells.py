"""Cells of a suite's network are replaced as records say, and every weight is owned by the torch tree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

import pytest
from vllm.config import VllmConfig, get_current_vllm_config, set_current_vllm_config

from mszoo.kernels import runtime
from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers import cells
from mszoo.registry.errors import PluginError, RefusalError

import mindspore as ms
from mindspore import mint, nn
from mindspore.common.initializer import initializer
from mindspore.nn.utils import no_init_parameters

LINEAR = "mindspore.nn.layer.basic:Linear"
BLOCK = f"{__name__}:Block"


@pytest.fixture(autouse=True)
def config() -> Iterator[VllmConfig]:
    """What vLLM has while a model is built."""
    runtime.prepare("cpu")
    made = VllmConfig()
    with set_current_vllm_config(made):
        yield made


class Block(nn.Cell):
    """A suite's cell: a linear and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = mint.nn.Linear(8, 4)
        self.norm = nn.LayerNorm((4,))
        self.layer_idx = 3

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.proj(x)


class Network(nn.Cell):
    """A suite's network, with one parameter of its own and one cell in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.CellList([Block(), Block()])
        self.head = self.layers[0].proj
        self.scale = ms.Parameter(initializer("ones", (2,), ms.bfloat16), name="scale")

    def construct(self, x: ms.Tensor) -> list[ms.Tensor]:
        return [layer(x) for layer in self.layers]


class Linear(torch.nn.Module):
    """What replaces a linear: its product doubled, to be told from the cell's own."""

    def __init__(self, cell: nn.Cell, *, prefix: str) -> None:
        super().__init__()
        self.prefix = prefix
        self.weight = torch.nn.Parameter(torch.ones(cell.out_features, cell.in_features), requires_grad=False)

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        return to_mindspore(2 * torch.nn.functional.linear(to_torch(x), self.weight))


class Whole(torch.nn.Module):
    """What replaces a block."""

    def __init__(self, cell: nn.Cell, *, prefix: str) -> None:
        super().__init__()

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        return x


class Particular:
    """A replacement that is for no cell."""

    def __init__(self, cell: nn.Cell, *, prefix: str) -> None:
        get_current_vllm_config().compilation_config.static_forward_context[f"{prefix}.attn"] = self
        raise cells.CellStays("it has no use for this cell")


class Refusing:
    """A replacement that can't honour what the model is."""

    def __init__(self, cell: nn.Cell, *, prefix: str) -> None:
        raise RefusalError("config.json", "heads of 40 have no kernel", "Use another model")


@pytest.fixture
def network() -> Iterator[Network]:
    with no_init_parameters():
        made = Network()
    yield made


def replace(
    network: Network, required: tuple[str, ...] = (), **implementations: Any
) -> tuple[torch.nn.Module, tuple[cells.Replaced, ...]]:
    targets = {"linear": LINEAR, "block": BLOCK}
    in_effect = {
        targets[name]: cells.Replacement(path, "suite of dist 1", "Mend it.")
        for name, path in implementations.items()
    }
    model = torch.nn.Module()
    with cells.building_with(in_effect):
        done = cells.replace_cells(
            network, model, name_of="model.{}".format, prefix="outer", required=required
        )
        return model, done


def test_weights_get_checkpoint_names_and_share_memory(network: Network) -> None:
    model, replaced = replace(network, linear=f"{__name__}:Linear")
    names = {name for name, _ in model.named_parameters()}
    assert names == {"model.scale"} | {
        f"model.layers.{i}.{leaf}" for i in (0, 1) for leaf in ("proj.weight", "norm.weight", "norm.bias")
    }
    assert [item.name for item in replaced] == ["model.layers.0.proj", "model.layers.1.proj"]
    assert model.model.layers._modules["1"].proj.prefix == "outer.model.layers.1.proj"
    assert model.model.scale.dtype is torch.bfloat16
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3)
    assert network.layers[1].norm.gamma.asnumpy().tolist() == [3.0] * 4
    assert to_torch(network.scale).tolist() == [3.0, 3.0]
    assert network(to_mindspore(torch.ones(1, 8)))[1].asnumpy().tolist() == [[48.0] * 4]


def test_a_cell_in_two_places_is_replaced_once(network: Network) -> None:
    _, replaced = replace(network, linear=f"{__name__}:Linear")
    assert len(replaced) == 2
    assert network.head is network.layers[0].proj


def test_the_outermost_cell_is_replaced(network: Network) -> None:
    model, replaced = replace(network, linear=f"{__name__}:Linear", block=f"{__name__}:Whole")
    assert [item.cell for item in replaced] == [BLOCK, BLOCK, LINEAR]  # the head is outside the blocks
    assert network.layers[0].layer_idx == 3
    assert not any("norm" in name for name, _ in model.named_parameters())


def test_a_cell_may_stay_and_its_children_are_replaced(network: Network, config: VllmConfig) -> None:
    _, replaced = replace(network, linear=f"{__name__}:Linear", block=f"{__name__}:Particular")
    assert {item.cell for item in replaced} == {LINEAR}
    # What it made before would take the names of the children's attention.
    assert config.compilation_config.static_forward_context == {}


def test_a_cell_that_the_model_needs_replaced_does_not_stay(network: Network) -> None:
    with pytest.raises(cells.CellStays, match="it has no use for this cell"):
        replace(network, (BLOCK,), linear=f"{__name__}:Linear", block=f"{__name__}:Particular")


def test_a_model_that_a_replacement_refuses_is_refused(network: Network) -> None:
    with pytest.raises(RefusalError, match="heads of 40"):
        replace(network, linear=f"{__name__}:Linear", block=f"{__name__}:Refusing")


def test_what_vllm_puts_in_place_runs(network: Network) -> None:
    model, _ = replace(network, linear=f"{__name__}:Linear")
    model.model.layers._modules["0"].proj = Whole(network, prefix="")
    x = to_mindspore(torch.ones(1, 8))
    assert network(x)[0] is x


def test_a_replacement_that_cannot_be_loaded_is_named(network: Network) -> None:
    with pytest.raises(PluginError) as caught:
        replace(network, linear="absent_module:Linear")
    assert str(caught.value) == (
        "suite of dist 1: absent_module:Linear can't be loaded (ModuleNotFoundError: No module named "
        "'absent_module'). Mend it."
    )
