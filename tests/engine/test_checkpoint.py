"""The check of a checkpoint's tensors against the model's, and the loading, without an engine."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import pytest
from safetensors.torch import save_file

from mszoo.adapters.vllm.models.checkpoint import Checkpoint, is_broken, read
from mszoo.layers import weights
from mszoo.layers.weights import Expected, check_tensors
from mszoo.registry.errors import BrokenCheckpointError, CheckpointError, RefusalError

EXPECTED = {
    "a.weight": Expected("a.weight", None, (2, 3)),
    "b.weight": Expected("b.weight", None, (4,)),
    "quantized": Expected("quantized", None, None),
}
FOUND = {"a.weight": (2, 3), "b.weight": (4,), "quantized": (7, 7)}


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"lm_head.weight": (9, 9)},
        {"model.layers.0.self_attn.rotary_emb.inv_freq": (16,)},
        {"model.layers.0.self_attn.q_proj.bias": (16,)},
    ],
)
def test_the_right_tensors_pass(extra: dict[str, tuple[int, ...]]) -> None:
    check_tensors(EXPECTED, FOUND | extra, ("lm_head.weight",), "checkpoint")


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (
            {"a.weight": (2, 3), "quantized": ()},
            "here: tensor b.weight is missing from the checkpoint. Copy or convert the checkpoint again: its "
            "config.json describes tensors that its files lack",
        ),
        ({"quantized": ()}, "here: tensors a.weight, b.weight are missing from the checkpoint. Copy or conv"),
        (
            FOUND | {"c.weight": (1,)},
            "here: the model has no place for tensor c.weight. Compare config.json with the checkpoint: it "
            "may describe another model, or lack a field",
        ),
        (
            FOUND | {f"c{index}": (1,) for index in range(6)},
            "here: the model has no place for tensors c0, c1, c2, c3 and 2 more. Compare",
        ),
        (
            FOUND | {"a.weight": (3, 2)},
            "here: tensor a.weight has shape [3, 2], and config.json makes it [2, 3]. Mend config.json, or "
            "convert the checkpoint again",
        ),
    ],
)
def test_wrong_tensors_are_named(found: dict[str, tuple[int, ...]], text: str) -> None:
    with pytest.raises(CheckpointError) as raised:
        check_tensors(EXPECTED, found, (), "here")
    assert str(raised.value).startswith(text)


def small_model() -> torch.nn.Module:
    return torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2), "b": torch.nn.LayerNorm(4)})


def load(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> set[str]:
    return weights.load(model, weights.expected_tensors(model, {}), tensors.items(), ("ignored",))


class Transposed(torch.nn.Module):
    """Its checkpoint has the weight the other way round, under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2, 3))
        self.bias = torch.nn.Parameter(torch.zeros(2))

    def checkpoint_tensors(self, name: str) -> dict[str, Expected]:
        def load(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> None:
            parameter.data.copy_(tensor.t())

        return {f"{name}.turned": Expected(f"{name}.weight", None, (3, 2), load=load)}


def test_a_module_answers_for_tensors_of_its_own() -> None:
    model = torch.nn.ModuleDict({"a": Transposed()})
    assert weights.expected_tensors(model, {}).keys() == {"a.turned", "a.bias"}
    turned, bias = torch.randn(3, 2), torch.randn(2)
    assert load(model, {"a.turned": turned, "a.bias": bias}) == {"a.weight", "a.bias"}
    assert torch.equal(model["a"].weight, turned.t())
    with pytest.raises(CheckpointError, match=r"tensor a.turned has shape \[2, 3\]"):
        load(model, {"a.turned": turned.t(), "a.bias": bias})


def test_loading_fills_the_parameters() -> None:
    model = small_model()
    tensors = {name: torch.randn(parameter.shape) for name, parameter in model.named_parameters()}
    extra = {"ignored": torch.ones(1), "x.rotary_emb.inv_freq": torch.ones(1)}
    assert load(model, extra | tensors) == {"a.weight", "a.bias", "b.weight", "b.bias"}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, tensors[name])


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"a.weight": torch.ones(3, 2)}, "checkpoint: tensor a.weight has shape [3, 2], and config.json mak"),
        ({"z": torch.ones(1)}, "checkpoint: the model has no place for tensor z. "),
    ],
)
def test_loading_refuses_what_does_not_fit(tensors: dict[str, torch.Tensor], text: str) -> None:
    with pytest.raises(CheckpointError) as raised:
        load(small_model(), tensors)
    assert str(raised.value).startswith(text)


def read_folder(folder: Path, load_format: str = "auto") -> Checkpoint | None:
    vllm_config = SimpleNamespace(
        model_config=SimpleNamespace(model=str(folder)),
        load_config=SimpleNamespace(load_format=load_format),
    )
    return read(vllm_config)


def shapes(folder: Path, load_format: str = "auto") -> Any:
    found = read_folder(folder, load_format)
    return None if found is None else found.shapes


def write_sharded(folder: Path) -> None:
    save_file({"a": torch.ones(2, 3)}, folder / "one.safetensors")
    save_file({"b": torch.ones(4)}, folder / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shapes_come_from_the_headers(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    assert shapes(tmp_path) == shapes(tmp_path, "safetensors") == {"a": (2, 3), "b": (4,)}


def test_an_index_says_which_files_count(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    save_file({"other": torch.ones(1)}, tmp_path / "other.safetensors")
    assert set(shapes(tmp_path)) == {"a", "b"}


def test_mistrals_files_come_first_as_with_vllm(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    save_file({"theirs": torch.ones(1)}, tmp_path / "consolidated.safetensors")
    assert read_folder(tmp_path) == Checkpoint({"theirs": (1,)})
    assert set(shapes(tmp_path, "safetensors")) == {"a", "b"}
    # No one pattern names the files of this index alone.
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    assert read_folder(tmp_path) == Checkpoint({"theirs": (1,)})
    (tmp_path / "model.safetensors.index.json").unlink()
    assert read_folder(tmp_path) == Checkpoint({"a": (2,)}, "model*.safetensors")


def test_torchs_files_are_read_where_there_are_no_others(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2, 3)}, tmp_path / "pytorch_model.bin")
    torch.save({"b": torch.ones(1)}, tmp_path / "optimizer.bin")
    assert shapes(tmp_path) == {"a": (2, 3)}
    save_file({"c": torch.ones(1)}, tmp_path / "model.safetensors")
    assert shapes(tmp_path) == {"c": (1,)}


def test_tensors_under_another_name_are_no_broken_checkpoint() -> None:
    """Another implementation may know the names."""
    renamed = {"a.weight": (2, 3), "norm.gamma": (4,), "quantized": ()}
    with pytest.raises(
        CheckpointError, match=r"b\.weight is missing .*, and the model has no place"
    ) as other:
        check_tensors(EXPECTED, renamed, (), "here")
    with pytest.raises(BrokenCheckpointError) as small:
        check_tensors(EXPECTED, renamed | {"norm.gamma": (3,)}, (), "here")
    assert not isinstance(other.value, BrokenCheckpointError)
    refusal = RefusalError("a", "b", "c")
    assert is_broken([refusal, small.value])
    assert not is_broken([other.value, small.value])
    assert not is_broken([refusal])


def test_names_of_old_checkpoints() -> None:
    assert weights.modern_name("a.LayerNorm.gamma") == "a.LayerNorm.weight"
    assert weights.modern_name("a.LayerNorm.beta") == "a.LayerNorm.bias"
    assert weights.modern_name("a.gamma") == "a.gamma"


def test_what_vllm_does_not_read_as_safetensors_is_not_checked(tmp_path: Path) -> None:
    assert shapes(tmp_path, "dummy") is None
    assert shapes(Path("organisation/model")) is None
    (tmp_path / "pytorch_model.bin").touch()
    assert shapes(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        (
            "model.safetensors.index.json",
            "{",
            "is not an index of safetensors files (Expecting property name",
        ),
        (
            "model.safetensors.index.json",
            "{}",
            "is not an index of safetensors files (it has no weight_map). Copy",
        ),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"b": "../outside.safetensors"}}',
            "is not an index of safetensors files (it lists '../outside.safetensors', which is not a",
        ),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"b": "/etc/passwd"}}',
            "is not an index of safetensors files (it lists '/etc/passwd', which is not a file beside it).",
        ),
        (
            "model.safetensors.index.json",
            "[" * 100_000,
            "is not an index of safetensors files (it is nested too",
        ),
        (
            "model.safetensors.index.json",
            "9" * 5000,
            "is not an index of safetensors files (Exceeds the limit",
        ),
        (
            "model.safetensors.index.json",
            "null",
            "is not an index of safetensors files (it has no weight_map)",
        ),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"b": "' + "x" * 5000 + '"}}',
            "is not an index of safetensors files (it lists 'xxx",
        ),
        ("model.safetensors.index.json", '{"weight_map": {"b": []}}', "is not an index of safetensors files"),
        ("one.safetensors", "", "is truncated or not a safetensors file ("),
        (
            "one.safetensors",
            "version https://git-lfs.github.com/spec/v1",
            "is truncated or not a safetensors",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, text: str, what: str) -> None:
    write_sharded(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError) as raised:
        shapes(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path / name}: {what}")
