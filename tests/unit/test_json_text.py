"""JSON from outside: a value, or one clause that says why not."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mszoo.adapters.vllm.cli.explain.folder import read_architectures
from mszoo.registry.errors import LockError, MszooError
from mszoo.registry.json_text import NotJsonError, parse_json, read_json
from mszoo.registry.lock import parse_lock, read_lock

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
FIELDS = ("mszoo", "device", "digest", "settings", "requires", "plugins", "models", "layers", "ops")
locks = st.fixed_dictionaries(
    {"format": st.just("mszoo-lock"), "version": st.just(1)}, optional=dict.fromkeys(FIELDS, values)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "it is nested too deeply"),
        ('{"a":' * 100_000, "it is nested too deeply"),
        ("9" * 5000, "Exceeds the limit"),
        ("", "Expecting value"),
    ],
)
def test_what_is_no_json(text, why):
    with pytest.raises(NotJsonError, match=why):
        parse_json(text)


def test_what_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b" " * ((1 << 20) + 1))
    for name, why in (("pipe", "it is no file"), ("large", "it has more than 1 MiB"), ("a\0b", "null")):
        with pytest.raises(NotJsonError, match=why):
            read_json(tmp_path / name, 1 << 20)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "absent")


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        (
            {"num_hidden_layers": 2**40},
            "says num_hidden_layers=1099511627776, and no model has more than 16384",
        ),
        ({"vision_config": {"depth": 10**6}}, "says depth=1000000, and no model has more than 16384"),
        (
            {"text_config": {"vocab_size": 2**31}},
            "says vocab_size=2147483648, and no model has more than 2147483647",
        ),
    ],
)
def test_sizes_that_no_model_has(tmp_path, fields, what):
    """Transformers would make a list of so many layers before anybody else is asked."""
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForCausalLM"]} | fields))
    with pytest.raises(MszooError) as raised:
        read_architectures(tmp_path)
    assert what in str(raised.value)


@given(st.binary(max_size=40) | values.map(lambda value: json.dumps(value).encode()))
def test_any_file_is_a_value_or_a_reason(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any", numbered=True) / "config.json"
    path.write_bytes(content)
    try:
        names = read_architectures(path.parent)
    except MszooError as error:
        assert str(error).isprintable()
    else:
        assert names
        assert all(name.isprintable() for name in names)


@given(st.lists(st.text(min_size=1, max_size=400), min_size=1, max_size=3))
def test_architectures_are_safe_to_print(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("names", numbered=True)
    (folder / "config.json").write_text(json.dumps({"architectures": names}))
    assert all(name.isprintable() and len(name) < 2100 for name in read_architectures(folder))


@given(locks | values | st.text(max_size=40))
def test_any_text_is_a_lock_or_a_reason(content):
    text = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(LockError) as raised:
        parse_lock(text, "a.lock")
    assert str(raised.value).isprintable()


def test_a_lock_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "a b.lock"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(LockError) as raised:
        read_lock(path)
    assert str(raised.value) == (
        f"{path}: is no lock file: it has more than 128 MiB. Give a file that `mszoo lock` wrote."
    )
    with pytest.raises(LockError, match=f"Write one with `mszoo lock '{tmp_path}/b c'`"):
        read_lock(tmp_path / "b c")
