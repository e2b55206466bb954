"""Checkpoints that lie: refused in one line, unread where they point outside, without memory; no engine."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mszoo.adapters.vllm.models import sizes
from mszoo.adapters.vllm.models.checkpoint import Checkpoint, read
from mszoo.registry.errors import BrokenCheckpointError

INDEX = "model.safetensors.index.json"
#: Of an index: what it lists, and what must be said.
OUTSIDE = (
    "../outside.safetensors",
    "/etc/passwd",
    "sub/../../x.safetensors",
    "./model.safetensors",
    "..",
    ".",
    "sub/model.safetensors",
    "..\\outside.safetensors",
    "C:\\x.safetensors",
    "//host/share",
    "a\0b",
    "a\nb.safetensors",
    "\x1b[31m.safetensors",
    "evil\u202esafetensors",
)
WRONG = ("", "x" * 256, None, 5, 1.5, True, [], {}, ["model.safetensors"], {"file": "x"}, 10**400)
MAPS: tuple[Any, ...] = (None, [], {}, "x", 5, True, [["a", "x.safetensors"]])
TEXTS: dict[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "a number": b"5",
    "deep list": b"[" * 200_000,
    "deep object": b'{"weight_map":' * 100_000,
    "huge integer": b'{"weight_map": ' + b"9" * 10_000 + b"}",
    "not UTF-8": b"\xff\xfe\x00",
    "null bytes": b"\0" * 100,
    "cut": b'{"weight_map": {"a": "x.safe',
    "surrogate": rb'{"weight_map": {"a": "\ud800.safetensors"}}',
}


def config_of(folder: Path) -> Any:
    return SimpleNamespace(
        model_config=SimpleNamespace(model=str(folder)), load_config=SimpleNamespace(load_format="auto")
    )


def write_file(path: Path, header: bytes, data: bytes = b"") -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def write_tensor(path: Path) -> None:
    header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    write_file(path, json.dumps(header).encode(), bytes(8))


def refusal(folder: Path) -> str:
    with pytest.raises(BrokenCheckpointError) as raised:
        read(config_of(folder))
    text = str(raised.value)
    assert text.isprintable()
    assert len(text) < 2000
    return text.replace(str(folder), "DIR")


def refused_index(folder: Path, content: bytes) -> str:
    write_tensor(folder / "model.safetensors")
    (folder / INDEX).write_bytes(content)
    text = refusal(folder)
    assert text.startswith(f"DIR/{INDEX}: is not an index of safetensors files (")
    return text


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_that_points_outside_is_refused_unread(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "outside.safetensors").write_bytes(b"secret")
    opened: list[str] = []
    real = os.path.isfile
    monkeypatch.setattr(Path, "is_file", lambda self, **_: opened.append(str(self)) or real(self))
    text = refused_index(folder, json.dumps({"weight_map": {"a": name}}).encode())
    assert "which is not a file beside it" in text
    assert all(Path(path).parent == folder and Path(path).name == INDEX for path in opened)


@pytest.mark.parametrize("name", WRONG, ids=lambda name: repr(name)[:20])
def test_an_index_that_lists_no_names(tmp_path: Path, name: Any) -> None:
    assert "it lists " in refused_index(tmp_path, json.dumps({"weight_map": {"a": name}}).encode())


@pytest.mark.parametrize("content", MAPS, ids=repr)
def test_an_index_without_a_map(tmp_path: Path, content: Any) -> None:
    text = refused_index(tmp_path, json.dumps({"weight_map": content}).encode())
    assert "(it has no weight_map)" in text


@pytest.mark.parametrize("name", TEXTS)
def test_an_index_that_is_no_json(tmp_path: Path, name: str) -> None:
    refused_index(tmp_path, TEXTS[name])


def test_an_index_that_is_too_large_is_not_parsed(tmp_path: Path) -> None:
    write_tensor(tmp_path / "model.safetensors")
    with (tmp_path / INDEX).open("wb") as file:
        file.truncate(4 << 30)  # takes no disk
    assert "(it has more than 128 MiB)" in refusal(tmp_path)


def test_an_index_that_lists_a_thousand_absent_files(tmp_path: Path) -> None:
    write_tensor(tmp_path / "model.safetensors")
    names = {str(number): f"{number:05}.safetensors" for number in range(1000)}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": names}))
    assert " and 980 more, which model.safetensors.index.json lists" in refusal(tmp_path)


HEADERS: dict[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "deep": b'{"a":' + b"[" * 100_000,
    "wrong type": b'{"a": 5}',
    "no shape": b'{"a": {"dtype": "F32", "data_offsets": [0, 8]}}',
    "null shape": b'{"a": {"dtype": "F32", "shape": null, "data_offsets": [0, 8]}}',
    "negative": b'{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}',
    "absurd shape": b'{"a": {"dtype": "F32", "shape": [999999999999, 999999999999], "data_offsets": [0, 8]}}',
    "overflow": b'{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 8]}}',
    "huge number": b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 8]}}',
    "beyond the end": b'{"a": {"dtype": "F32", "shape": [1000000], "data_offsets": [0, 4000000]}}',
    "before the start": b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}',
    "backwards": b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}',
    "unknown dtype": b'{"a": {"dtype": "EVIL", "shape": [2], "data_offsets": [0, 8]}}',
    "not UTF-8": b"\xff\xfe",
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies(tmp_path: Path, name: str) -> None:
    write_file(tmp_path / "model.safetensors", HEADERS[name], bytes(8))
    assert refusal(tmp_path).startswith("DIR/model.safetensors: is truncated or not a safetensors file (")


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**12, 9])
def test_a_header_longer_than_its_file(tmp_path: Path, length: int) -> None:
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
    assert refusal(tmp_path).startswith("DIR/model.safetensors: is truncated or not a safetensors file (")


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    what = "DIR/model.safetensors: is truncated or not a safetensors file (it is no file)"
    assert refusal(tmp_path).startswith(what)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").symlink_to("/dev/zero")
    assert refusal(tmp_path).startswith(what)


HEADER = json.dumps(
    {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": {"format": "pt"}}
).encode()


@given(st.data())
def test_a_header_with_anything_changed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("fuzz", numbered=True)
    content = bytearray(struct.pack("<Q", len(HEADER)) + HEADER + bytes(8))
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), min_size=1, max_size=4)
    ):
        content[place] = value
    content = content[: data.draw(st.integers(0, len(content)))]
    (folder / "model.safetensors").write_bytes(bytes(content))
    try:
        found = read(config_of(folder))
    except BrokenCheckpointError as error:
        assert str(error).isprintable()
    else:
        assert found is not None
        assert all(math.prod(shape) <= 8 for shape in found.shapes.values())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(st.one_of(json_values, st.fixed_dictionaries({"weight_map": json_values})))
def test_an_index_of_anything(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    folder = tmp_path_factory.mktemp("index", numbered=True)
    write_tensor(folder / "model.safetensors")
    (folder / INDEX).write_text(json.dumps(content))
    assert refusal(folder)


LLAMA = {"vocab_size": 32_000, "hidden_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 4096}
SHAPES = {"embed": (32_000, 64), "one": (64, 64), "two": (64, 64)}
GIB = 1 << 30


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"vocab_size": 10**12}, "vocab_size is above 2147483647, which no model has"),
        ({"hidden_size": 10**5000}, "hidden_size is above 2147483647, which no model has"),
        ({"hidden_size": 2**30}, "vocab_size 32000 and hidden_size 1073741824 take 64000 GiB at least"),
        (
            {"num_hidden_layers": 2**30},
            "num_hidden_layers 1073741824 and hidden_size 64 take 128 GiB at least",
        ),
        ({"max_position_embeddings": 2**31 - 1}, None),
        ({"num_hidden_layers": 4}, "num_hidden_layers is 4, and the checkpoint has 3 tensors"),
        (
            {"vocab_size": 900_000},
            "vocab_size 900000 and hidden_size 64 describe more than the",
        ),
        ({"vocab_size": None, "hidden_size": "64", "num_hidden_layers": True}, None),
        ({}, None),
    ],
)
def test_absurd_sizes(changes: dict[str, Any], text: str | None) -> None:
    found = sizes.absurd(LLAMA | changes, SHAPES, 8 * GIB)
    assert found is text or (found is not None and text is not None and found.startswith(text))


def test_files_that_hold_less_than_the_config_describes() -> None:
    found = sizes.absurd(LLAMA | {"hidden_size": 10_000}, SHAPES, 8 * GIB)
    assert found == "vocab_size 32000 and hidden_size 10000 describe more than the checkpoint's files hold"


def test_absurd_sizes_are_told_of_the_checkpoint() -> None:
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(**LLAMA | {"vocab_size": 10**12}))
    vllm_config = SimpleNamespace(model_config=SimpleNamespace(hf_config=config, model="folder"))
    with pytest.raises(BrokenCheckpointError) as raised:
        sizes.check(vllm_config, Checkpoint(SHAPES))
    assert str(raised.value) == (
        "folder: vocab_size is above 2147483647, which no model has. "
        "Download the model again, or mend its config.json"
    )
    assert sizes.memory() > GIB


@given(
    st.dictionaries(st.sampled_from(sizes._FIELDS), st.integers() | json_values),
    st.dictionaries(st.text(max_size=3), st.lists(st.integers(0, 10**6), max_size=3).map(tuple), max_size=4),
)
def test_sizes_of_anything(fields: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    found = sizes.absurd(fields, shapes, 8 * GIB)
    assert found is None or (found.isprintable() and len(found) < 300)


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"a": Evil()}, tmp_path / "pytorch_model.bin")
    assert read(config_of(tmp_path)) is None  # left to vLLM's loader, which runs nothing either
    assert not (tmp_path / "ran").exists()
