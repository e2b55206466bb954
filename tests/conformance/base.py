"""What all conformance classes share: the adapter under test, the tiers, and the rule on overriding."""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from mszoo.conformance.plugin import GUARD, TIERS
from mszoo.registry.catalog import Catalog
from mszoo.registry.decisions import Candidate
from mszoo.registry.entry_points import Plugin
from mszoo.registry.load import load_catalog
from mszoo.registry.objects import missing_object
from mszoo.registry.records import DTYPES

__all__ = [
    "TIERS",
    "AdapterConformance",
    "Conformance",
    "PluginConformance",
    "available",
    "catalog",
    "engine",
    "need_libraries",
    "numeric",
    "static",
]

#: Marks a test that needs neither vLLM nor MindSpore.
static = pytest.mark.mszoo_tier("static")
#: Marks a test that computes and compares.
numeric = pytest.mark.mszoo_tier("numeric")
#: Marks a test that serves with vLLM.
engine = pytest.mark.mszoo_tier("engine")

_LIGHT = """
import json, sys
from importlib.metadata import EntryPoint
target = EntryPoint(sys.argv[1], sys.argv[2], "mszoo").load()
for hook in ("mszoo_suite", "mszoo_model_adapters", "mszoo_layer_adapters", "mszoo_op_adapters"):
    if callable(getattr(target, hook, None)):
        value = getattr(target, hook)()
        list(value) if hook != "mszoo_suite" else value
heavy = [name for name in ("mindspore", "torch", "vllm", "mindformers", "mindone") if name in sys.modules]
print(json.dumps(heavy), file=sys.stderr)
"""


@functools.cache
def catalog() -> Catalog:
    """Return the catalog of what is installed here."""
    # Imported here: pytest imports this package with every run, and this brings the whole command along.
    from mszoo.registry.cli.report import chosen_device

    return load_catalog(device=chosen_device(None))


class Conformance:
    """What all conformance classes share.

    Attributes:
        kind: what is tested: "suite", "model", "encoder", "head", "multimodal", "layer", "op" or "device".
    """

    kind: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a class that replaces the test which finds what a class replaces."""
        super().__init_subclass__(**kwargs)
        if GUARD in vars(cls):
            raise TypeError(f"{cls.__name__} overrides {GUARD}, which no class may")

    @classmethod
    def subject(cls) -> str:
        """Return the name of what is tested, for reports: ``suite.Architecture``, ``suite.op`` and so on."""
        raise NotImplementedError

    @static
    def test_overridden_tests_say_why(self) -> None:
        """A standard test is replaced, skipped or expected to fail for a reason that reports can show."""
        silent = list(_overrides(type(self)))
        assert not silent, "; ".join(silent)


class PluginConformance(Conformance):
    """The standard tests of whatever a plugin registers."""

    @classmethod
    def plugin(cls) -> Plugin:
        """Return the plugin that registers it; fails the test if none does."""
        raise NotImplementedError

    @static
    def test_registered(self) -> None:
        """mszoo finds it by its entry point, and has nothing to say against its plugin."""
        plugin = self.plugin()
        problems = [str(item) for item in catalog().problems if item.plugin == plugin.name]
        assert not problems, "\n".join(problems)

    @static
    def test_registering_is_light(self) -> None:
        """Every process of vLLM registers: no heavy import, nothing on stdout, which may be JSON."""
        heavy, printed = _registration(self.plugin().name, self.plugin().value)
        assert not heavy, f"registering imports {', '.join(heavy)}: move the import into the model's module"
        assert not printed, f"registering prints to stdout: {printed!r}"


class AdapterConformance(PluginConformance):
    """The standard tests of every kind of adapter.

    Attributes:
        implementation: picks one of several adapters that a suite gives under one name, as its record names the
            code; None takes the first.
    """

    implementation: str | None = None

    @classmethod
    def key(cls) -> tuple[str, str]:
        """Return the suite's name, and the architecture, layer or op that the adapter is for."""
        raise NotImplementedError

    @classmethod
    def find(cls) -> tuple[Candidate, str | None]:
        """Return the adapter under test, and why it can't run here (None if it can).

        Fails the test, naming the nearest adapter, if there is none.
        """
        look_up = {
            "model": catalog().decisions,
            "encoder": catalog().decisions,
            "head": catalog().decisions,
            "multimodal": catalog().decisions,
            "layer": catalog().layer_decisions,
            "op": catalog().op_decisions,
        }
        decisions = look_up[cls.kind]()
        suite, name = cls.key()
        for verdict in decisions[name].verdicts if name in decisions else ():
            candidate = verdict.candidate
            meant = cls.implementation in (None, candidate.adapter.implementation)
            if candidate.suite.name == suite and meant:
                return candidate, verdict.reason if verdict.status == "unavailable" else None
        known = [verdict.candidate.qualified_name for item in decisions.values() for verdict in item.verdicts]
        wanted = f"{suite}.{name}"
        nearest = difflib.get_close_matches(wanted, known, n=1)
        hint = f"Did you mean {nearest[0]}?" if nearest else f"Known: {', '.join(known) or 'none'}."
        problems = "".join(f"\n{problem}" for problem in catalog().problems)
        code = f" ({cls.implementation})" if cls.implementation else ""
        pytest.fail(f"no {cls.kind} {wanted}{code} is registered. {hint}{problems}", pytrace=False)

    @classmethod
    def pytest_generate_tests(cls, metafunc: pytest.Metafunc) -> None:
        """Run the tests of dtypes for those that the record declares."""
        if "dtype" in metafunc.fixturenames:
            try:
                metafunc.parametrize("dtype", cls.find()[0].adapter.dtypes)
            except pytest.fail.Exception:  # the test itself reports it
                metafunc.parametrize("dtype", DTYPES)

    @classmethod
    def plugin(cls) -> Plugin:
        """Return the plugin that registers it."""
        return cls.find()[0].plugin

    @pytest.fixture
    def candidate(self) -> Candidate:
        """The adapter under test, with its suite and plugin."""
        return self.find()[0]

    @static
    def test_available_here(self) -> None:
        """What the adapter requires is installed; a machine without it can't judge the adapter."""
        _, obstacle = self.find()
        if obstacle is not None:
            pytest.skip(obstacle)

    @static
    def test_record_survives_pickling(self, candidate: Candidate) -> None:
        """Records travel between vLLM's processes."""
        assert pickle.loads(pickle.dumps(candidate.adapter)) == candidate.adapter

    @static
    def test_implementation_exists(self, candidate: Candidate) -> None:
        """The code that the record names is there; read from the source, nothing of it is imported."""
        adapter = candidate.adapter
        missing = self.find()[1]
        if missing is not None and not adapter.implementation.startswith("mszoo."):
            pytest.skip(missing)
        problem = missing_object(adapter.implementation)
        assert problem is None, f"{adapter.implementation}: {problem}"


def available(cls: type[AdapterConformance]) -> Candidate:
    """Return a class's adapter; skips the test where it can't run, or its code, vLLM or MindSpore is missing."""
    candidate, obstacle = cls.find()
    if obstacle is not None:
        pytest.skip(obstacle)
    missing = missing_object(candidate.adapter.implementation)
    if missing is not None:  # test_implementation_exists fails with it, once
        pytest.skip(f"there is nothing to run: {missing}")
    need_libraries()
    return candidate


def need_libraries() -> None:
    """Skip the test where vLLM or MindSpore is missing."""
    for module in ("torch", "vllm", "mindspore"):
        pytest.importorskip(module, reason=f"{module} is not installed: pip install 'mszoo[cpu]'")


@functools.cache
def _registration(name: str, value: str) -> tuple[list[str], str]:
    """Register one plugin in a fresh process; return the heavy modules it imported and what it printed."""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(item for item in sys.path if item)}
    done = subprocess.run(
        [sys.executable, "-c", _LIGHT, name, value],
        check=False,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1]), done.stdout


def _overrides(cls: type) -> Iterator[str]:
    """Give, for each class between a user's class and ours, what it replaces or skips without a reason."""
    for owner in cls.__mro__:
        if not issubclass(owner, Conformance) or owner.__module__.startswith("mszoo.conformance."):
            continue
        for mark in _marks(owner):
            if mark.name == "xfail" and not _reason(mark):
                yield f"{owner.__name__} is marked xfail without a reason"
        standard = {name for base in owner.__mro__[1:] for name in vars(base) if _is_standard(base, name)}
        for name, value in vars(owner).items():
            if name in standard and not any(mark.name == "xfail" and _reason(mark) for mark in _marks(value)):
                yield (
                    f"{owner.__name__}.{name} overrides a standard test: mark it "
                    f"pytest.mark.xfail(reason='...'), or give it another name"
                )


def _is_standard(owner: type, name: str) -> bool:
    return name.startswith("test_") and owner.__module__.startswith("mszoo.conformance.")


def _marks(value: Any) -> list[Any]:
    marks = vars(value).get("pytestmark", []) if inspect.isclass(value) else getattr(value, "pytestmark", [])
    return marks if isinstance(marks, list) else [marks]


def _reason(mark: Any) -> str:
    reason = mark.kwargs.get("reason")
    return reason.strip() if isinstance(reason, str) else ""
