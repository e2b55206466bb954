"""Whatever comes from outside is taken or refused in one line: settings, lock files, configs, messages."""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mszoo.adapters.vllm.cli.explain.folder import refuse_absurd
from mszoo.models.config_types import MOST_LAYERS
from mszoo.registry import LayerAdapter, ModelAdapter, MszooError, OpAdapter, Suite
from mszoo.registry.cli.lock.explain import explain_json, print_explanation
from mszoo.registry.errors import LockError, Problem, RecordError, SettingsError
from mszoo.registry.lock import Lock, LockedAdapter, LockedPlugin, parse_lock, read_lock
from mszoo.registry.lock_plugins import unhashable
from mszoo.registry.settings import Settings
from mszoo.registry.text import describe, printable, shown
from mszoo.registry.unpackaged import unpackaged
from tests.published import corpus
from tests.published.readers import answers, config_of

LONG = "a" * 5000
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**400, -(2**63), 2**31, "", "\x1b[2J", "\u202e", "\ud800", LONG]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
GONE = object()


def changed(data: st.DataObject, tree: Any, values: st.SearchStrategy[Any], most: int = 3) -> Any:
    """Return a copy of JSON with some of its parts, keys and items replaced, dropped or added."""
    tree = copy.deepcopy(tree)
    for _ in range(data.draw(st.integers(1, most))):
        place = tree
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys) if keys else st.none())
            inner = None if key is None else place[key]
            if not isinstance(inner, (dict, list)) or not inner or data.draw(st.booleans()):
                break
            place = inner
        # A copy: what is drawn may be changed by the next.
        value = (
            GONE
            if data.draw(st.booleans()) and data.draw(st.booleans())
            else copy.deepcopy(data.draw(values))
        )
        if isinstance(place, list):
            place[slice(key, None if key is None else key + 1)] = [] if value is GONE else [value]
        elif value is not GONE:
            place[data.draw(st.just(key) | st.text(max_size=6)) if key is not None else "new"] = value
        elif key is not None:
            del place[key]
    return tree


def is_one_line(text: str, longest: int = 9000) -> bool:
    return text.isprintable() and 0 < len(text) < longest


# Environment settings.

VARIABLES = ("MSZOO_PREFER", "MSZOO_DISABLE", "MSZOO_KERNELS", "MSZOO_LOCK", "MSZOO_PLUGINS")
pieces = st.sampled_from(
    [
        ",",
        " ",
        "~",
        "~nobody-here",
        "/",
        "..",
        ".",
        "./",
        ".py",
        "native",
        "1",
        "true",
        "mindspore",
        "\t",
        LONG,
        *("os", "json", "a.b", "a..b", "\udcff", "\n", "=", "/proc/self/mem", "/dev/zero", "\x1b[31m"),
    ]
)
setting = st.lists(pieces | st.text(max_size=6), max_size=5).map("".join)


@given(st.dictionaries(st.sampled_from(VARIABLES), setting))
@example({"MSZOO_LOCK": "~nobody-here/a.lock"})
@example({"MSZOO_PLUGINS": "~nobody-here/plugin.py"})
@example({"MSZOO_PLUGINS": f"/{LONG}.py"})
@example({"MSZOO_PLUGINS": "/a\0.py"})
def test_any_environment_is_settings_or_a_reason(environ: dict[str, str]) -> None:
    try:
        settings = Settings.from_environ(environ)
    except SettingsError as error:
        assert is_one_line(str(error))
        return
    assert settings.lock is None or settings.lock.is_absolute()
    found, problems = unpackaged(settings.plugins, "mszoo", importable=False)
    assert len(found) + len(problems) == len(settings.plugins)
    assert all(is_one_line(str(problem)) for problem in problems)


# Lock files.

HASH = "sha256:" + "0" * 64
LOCK = Lock(
    "0.1.0",
    "cpu",
    "1ad0bc633703",
    prefer=("native",),
    requires={"numpy": "1.0", "absent": None},
    plugins={
        "native": LockedPlugin("mszoo", "0.1.0", "mszoo.adapters.native", {"mszoo.adapters.native": HASH})
    },
    code={"mszoo": {"mszoo": "namespace", "mszoo.models": HASH, "mszoo/a.so": HASH, "odd": "loader:a.B"}},
    models={"A": (LockedAdapter("native.A", "a:A"), LockedAdapter("mindone.A", "b:A"))},
    ops={"silu": (LockedAdapter("native.silu", "a:f"),)},
).to_json()


def take_lock(path: Path, capsys: pytest.CaptureFixture[str] | None = None) -> Lock | None:
    try:
        lock = read_lock(path)
    except LockError as error:
        assert is_one_line(str(error))
        return None
    assert parse_lock(lock.dumps(), "again") == lock
    assert all(is_one_line(str(problem)) for problem in unhashable(lock.code))
    print_explanation(explain_json(lock, path))
    return lock


@given(st.data())
def test_a_lock_with_anything_changed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.lock"
    texts = st.text(max_size=8) | st.sampled_from(
        ["", LONG, "loader:{x}", "[red]a[/]", "[/]", "\x1b[2J", "\ud800"]
    )
    path.write_text(json.dumps(changed(data, LOCK, json_values | texts)), encoding="utf-8")
    take_lock(path)


@given(st.data())
def test_a_lock_with_any_bytes_changed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.lock"
    content = bytearray(json.dumps(LOCK).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=6))
    path.write_bytes(bytes(content))
    take_lock(path)


def test_a_name_given_twice_among_very_many_is_found_at_once() -> None:
    many = "".join(f'"{number}": 1, ' for number in range(200_000))
    with pytest.raises(LockError, match="'199999' is given twice"):
        parse_lock("{" + many + '"199999": 2}', "a.lock")


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_never_ends_is_no_lock(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.lock"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(LockError) as raised:
        read_lock(path)
    assert str(raised.value) == (
        f"{path}: is no lock file: it is no file. Give a file that `mszoo lock` wrote."
    )


# Records.

RECORDS = (Suite, ModelAdapter, LayerAdapter, OpAdapter)
arguments = st.sampled_from(
    [
        "ACausalLM",
        "a:b",
        "vllm:RMSNorm",
        "mine:a.b:C",
        "silu",
        "cpu",
        "npu",
        "lora",
        "numpy>=1",
        "numpy>=1; x",
        "a[b",
    ]
)
held = st.recursive(
    json_values | arguments | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.sets(arguments, max_size=3),
    max_leaves=4,
)
fields = st.sampled_from(
    [
        "name",
        "architecture",
        "model",
        "target",
        "implementation",
        "op",
        "kernel_set",
        "capabilities",
        "requires",
        "devices",
        "dtypes",
        "priority",
        "packed_modules_mapping",
        "example_config",
        "refused",
        "pooling",
        "new",
    ]
)


@given(
    st.sampled_from(RECORDS),
    st.lists(arguments | held, max_size=3),
    st.dictionaries(fields, held, max_size=3),
)
@example(ModelAdapter, ["A", "a:b"], {"requires": ("numpy>=1; x",)})
def test_a_record_of_anything(record: Any, positional: list[Any], named: dict[str, Any]) -> None:
    try:
        made = record(*positional, **named)
    except RecordError as error:
        assert is_one_line(str(error))
    except TypeError as error:  # Python's own, of a call that isn't one
        assert "argument" in str(error)
    else:
        hash(made)
        assert made == copy.copy(made)


# Configs.

CORPUS = corpus.read()
sizes = st.sampled_from(
    [0, 1, 2, 3, 7, 64, 128, 2**20, 2**40, -1, 0.5, 1e308, True, "64", [], ["full_attention"]]
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Transformers warns of each config that it finds odd."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def imported() -> None:
    """Import what readers need: the first example would be taken for one that hangs."""
    config = CORPUS["Qwen/Qwen3-0.6B"]
    assert set(answers(config_of(config), config["architectures"][0]).values()) == {""}


@given(st.sampled_from(sorted(CORPUS)), st.data())
def test_a_config_with_anything_changed(imported: None, name: str, data: st.DataObject) -> None:
    architecture, model_type = CORPUS[name]["architectures"][0], CORPUS[name]["model_type"]
    config = changed(data, CORPUS[name], sizes | json_values)
    config["model_type"], config["architectures"] = model_type, [architecture]
    try:
        refuse_absurd(Path("config.json"), config)
    except MszooError as error:
        assert is_one_line(str(error))
        if str(MOST_LAYERS) in str(error):  # of so many layers transformers makes a list
            return
    try:
        loaded = config_of(config)
    except Exception:  # transformers' own: no reader of ours is asked
        return
    for why in answers(loaded, architecture).values():
        assert why == "" or is_one_line(why)


# Text.


class Speaks(Exception):
    """Says what it is told."""

    def __str__(self) -> str:
        return str(self.args[0])


@given(st.text(), st.text(), st.text(), st.integers(1, 600))
def test_messages_are_one_safe_line(who: str, what: str, hint: str, longest: int) -> None:
    for text in (MszooError(who, what, hint), Problem(who, what, hint), LockError(who, what * 300, hint)):
        assert is_one_line(str(text), 8100)
    assert printable(what, longest).isprintable()
    assert len(printable(what * 50, longest)) < 10 * longest + 50
    assert is_one_line(describe(Speaks(what)), 8100)
    assert is_one_line(shown(what), 2000)


@given(held)
def test_any_value_is_shown(value: Any) -> None:
    assert is_one_line(shown(value), 2000)
