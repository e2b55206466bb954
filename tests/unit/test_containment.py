"""What contains a plugin's code: exceptions, the process's state, text, and what is taken in of its records."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mszoo.registry import LayerAdapter, ModelAdapter, MszooError, OpAdapter, Suite
from mszoo.registry.containment import caught, contained
from mszoo.registry.errors import Problem, at_most_each, sentence
from mszoo.registry.intake import MOST_RECORDS, take_record, take_records
from mszoo.registry.text import describe, kind, printable, shown

RECORDS = {
    Suite: (("name", "description", "requires", "install"), ("demo",)),
    ModelAdapter: (
        (
            "architecture",
            "model",
            "capabilities",
            "requires",
            "devices",
            "dtypes",
            "priority",
            "packed_modules_mapping",
            "example_config",
            "refused",
            "pooling",
        ),
        ("Demo", "demo:Model"),
    ),
    LayerAdapter: (
        ("target", "implementation", "requires", "devices", "dtypes", "priority"),
        ("vllm:A", "a:B"),
    ),
    OpAdapter: (
        ("op", "implementation", "kernel_set", "requires", "devices", "priority"),
        ("a", "a:f", "mine"),
    ),
}


class Evil(str):
    """A string whose operators end the process."""

    def _exit(self, *_):
        raise SystemExit(str.__str__(self))

    __eq__ = __str__ = __repr__ = __len__ = __format__ = __add__ = __lt__ = __contains__ = __iter__ = _exit
    __hash__ = str.__hash__


class EvilInteger(int):
    """An integer whose operators end the process."""

    def _exit(self, *_):
        raise SystemExit(5)

    __eq__ = __neg__ = __lt__ = __gt__ = __abs__ = __repr__ = __index__ = __int__ = __bool__ = _exit
    __hash__ = int.__hash__


class EvilList(list):
    """A list that says it is endless."""

    def __iter__(self):
        while True:
            yield "cpu"

    def __len__(self):
        return 1


class EvilMapping(Mapping):
    """A mapping that never ends."""

    def __iter__(self):
        return iter(str, None)

    def __len__(self):
        return 1

    def __getitem__(self, key):
        return {key: self}


#: By name, since hypothesis itself can't show them.
ODD = {
    "a huge integer": lambda: 10**5000,
    "another": lambda: -(2**64),
    "a function": lambda: print,
    "a class": lambda: object,
    "an endless list": lambda: EvilList(["cpu"]),
    "an endless mapping": EvilMapping,
    "a long string": lambda: "x" * 100_000,
    "a long list": lambda: ["x"] * 2000,
    "a string": lambda: Evil("cpu"),
    "an integer": lambda: EvilInteger(3),
}
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=5)
    | st.sampled_from(sorted(ODD)).map(lambda name: ODD[name]())
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)
PLAIN = (str, int, float, bool, type(None))


def is_plain(value):
    if type(value) in (tuple, list, frozenset):
        return all(is_plain(item) or type(item).__name__ == "Capability" for item in value)
    if isinstance(value, Mapping):
        return all(type(key) is str and is_plain(item) for key, item in value.items())
    return type(value) in PLAIN


@given(st.data())
def test_whatever_a_record_holds_becomes_plain_data_or_a_reason(data):
    record_type = data.draw(st.sampled_from(list(RECORDS)))
    names, arguments = RECORDS[record_type]
    record = record_type(*arguments)
    changes = data.draw(st.dictionaries(st.sampled_from(names), values, min_size=1, max_size=3))
    for name, value in changes.items():
        object.__setattr__(record, name, value)
    taken = take_records("hook", record_type, [record])
    assert len(taken.records) + bool(taken.fault) == 1
    assert len(taken.fault) < 1000
    assert taken.fault.isprintable()
    for good in taken.records:
        assert all(is_plain(getattr(good, name)) for name in names)
        assert hash(good) == hash(take_record(record_type, good))
        assert good == take_record(record_type, good)


@given(values)
def test_whatever_a_hook_returns_is_taken_or_told(value):
    taken = take_records("hook", ModelAdapter, value)
    assert taken.records == []
    empty = type(value) in (list, tuple, dict) and not value and not isinstance(value, dict)
    assert bool(taken.fault) != empty


@given(st.text(max_size=600))
def test_what_is_printable_is_one_safe_line(text):
    safe = printable(text)
    assert safe.isprintable()
    assert len(safe) < 10 * 500 + 50
    assert printable(safe, 10_000) == safe
    assert sentence("who", text, "hint").isprintable()


def test_text_that_is_kept_and_text_that_is_not():
    assert printable("naïve 模型 ok") == "naïve 模型 ok"
    assert printable("a\x1b[31m\u202e\x9b\ud800\tb\nc") == r"a\x1b[31m\u202e\x9b\ud800 b c"
    assert printable("x" * 600) == "x" * 500 + "... (600 characters)"
    assert shown(10**5000) == "an int"
    assert shown(Evil("a")) == "'a'"
    assert (kind(None), kind(5), kind("")) == ("None", "an int", "a str")


def test_what_is_raised_is_caught_and_described():
    for error in (SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError(), BaseException("x")):
        with contained(), caught() as failure:
            raise error
        assert failure.error is error
        assert describe(error).startswith(type(error).__name__)


def test_who_asks_a_process_to_end_is_heard():
    """vLLM's workers raise SystemExit in a handler of signals, in whatever code runs then."""
    there = {"__name__": "vllm.v1.executor.multiproc_executor"}
    exec("def handler(*_): raise SystemExit(15)", there)  # code of another module
    before = signal.signal(signal.SIGUSR1, there["handler"])
    try:
        with pytest.raises(SystemExit), contained(), caught():
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_records_are_bounded():
    fault = f"hook gives more than {MOST_RECORDS} records; all are ignored"
    assert take_records("hook", Suite, (Suite("a") for _ in range(MOST_RECORDS + 1))).fault == fault
    assert len(take_records("hook", Suite, (Suite("a") for _ in range(MOST_RECORDS))).records) == MOST_RECORDS


def test_what_cannot_be_undone_is_told_too(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with contained() as traces:
        os.chdir(tmp_path)
        folder.rmdir()
    (trace,) = traces
    assert trace.what == "changed the working directory, which could not be undone"


def test_a_stream_that_is_kept_can_be_used_later(capsys):
    kept = []
    with contained() as traces:
        kept.append(logging.StreamHandler())
        print("now")
        sys.stdout.close()
        with sys.stderr as stream:
            kept.append(stream)
    assert traces == []
    kept[0].emit(logging.LogRecord("x", logging.INFO, "", 0, "later", (), None))
    kept[1].write("last\n")
    assert capsys.readouterr() == ("", "now\nlater\nlast\n")


def test_a_logger_survives_the_closing_of_its_stream(tmp_path, monkeypatch):
    class Stream:
        closed = False

        def close(self):
            self.closed = True

    stream = Stream()
    monkeypatch.setattr(sys, "stderr", stream)
    handler = logging.StreamHandler(stream)
    logging.getLogger("mszoo.test").addHandler(handler)
    try:
        with contained(prints=True) as traces:
            stream.close()
        assert [trace.what for trace in traces] == ["closed sys.stderr, which was undone"]
        assert handler.stream is sys.stderr is not stream
    finally:
        logging.getLogger("mszoo.test").removeHandler(handler)


def test_a_plugin_with_many_problems_is_told_with_their_number():
    problems = [Problem("a", f"what {number}", "hint", "a") for number in range(30)]
    found = at_most_each([*problems, Problem("b", "other", "hint", "b")])
    assert [item.what for item in found[-2:]] == ["other", "has 10 further problems like: what 20"]
    assert len(found) == 22


def test_bounds_of_fields():
    for changes, what in (
        (
            {"priority": 10**9 + 1},
            "priority is 1000000001. Set it to an integer between -1000000000 and 1000000000.",
        ),
        ({"refused": "x" * 4001}, "(4001 characters). Set it to at most 4000 characters."),
        (
            {"example_config": {"a": 2**64}},
            "example_config isn't JSON (it holds an integer of more than 64 bits)",
        ),
        (
            {"example_config": {"a": [0] * 20_000}},
            "it holds more than 20000 values, or is nested deeper than 40",
        ),
        (
            {"packed_modules_mapping": {f"a{n}": () for n in range(1001)}},
            "packed_modules_mapping holds more than 1000 names",
        ),
        ({"devices": ["cpu"] * 1001}, "devices holds more than 1000 strings. Give it fewer."),
    ):
        with pytest.raises(MszooError) as caught_error:
            ModelAdapter("A", "a:A", **changes)
        assert what in str(caught_error.value)
