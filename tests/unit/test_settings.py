"""Settings: the MSZOO_* variables, good and bad."""

from __future__ import annotations

import pytest

from mszoo.registry.errors import SettingsError
from mszoo.registry.load import load_catalog
from mszoo.registry.settings import Settings


def test_defaults():
    assert Settings.from_environ({}) == Settings((), False, frozenset(), "auto")


def test_the_process_environment_is_read_by_default(monkeypatch):
    monkeypatch.setenv("MSZOO_KERNELS", "cpu")
    assert Settings.from_environ().kernels == "cpu"


@pytest.mark.parametrize(
    ("text", "prefer"),
    [("", ()), (" , ", ()), ("mindone", ("mindone",)), (" mindone , native,mindone", ("mindone", "native"))],
)
def test_prefer(text, prefer):
    assert Settings.from_environ({"MSZOO_PREFER": text}).prefer == prefer


@pytest.mark.parametrize(
    ("text", "disabled_all", "disabled"),
    [
        ("", False, set()),
        ("0", False, set()),
        ("false", False, set()),
        ("1", True, set()),
        (" TRUE ", True, set()),
        ("mindone, native", False, {"mindone", "native"}),
    ],
)
def test_disable(text, disabled_all, disabled):
    settings = Settings.from_environ({"MSZOO_DISABLE": text})
    assert (settings.disabled_all, settings.disabled) == (disabled_all, frozenset(disabled))


@pytest.mark.parametrize(
    ("text", "kernels"), [("", "auto"), (" mindspore ", "mindspore"), ("ASCEND", "ascend")]
)
def test_kernels(text, kernels):
    assert Settings.from_environ({"MSZOO_KERNELS": text}).kernels == kernels


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        (
            {"MSZOO_KERNELS": "cuda 12"},
            "MSZOO_KERNELS: 'cuda 12' is not a kernel set. Use one of auto, mindspore, cpu, ascend.",
        ),
        (
            {"MSZOO_PREFER": "mindone;native"},
            "MSZOO_PREFER: 'mindone;native' is not a suite name. Separate names by commas: mindone,native.",
        ),
    ],
)
def test_bad_settings(environ, text):
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ(environ)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MSZOO_KERNEL", "MSZOO_KERNELS"),
        ("MSZOO_DISABEL", "MSZOO_DISABLE"),
        ("MSZOO_LOCKS", "MSZOO_LOCK"),
        ("MSZOO_ACME_LOCK", None),  # a plugin's own
        ("MSZOO_CACHE", None),
        ("MSZOO_KERNELS", None),
    ],
)
def test_a_mistyped_variable_is_a_problem_with_what_was_meant(name, meant):
    problems = load_catalog({name: "auto"}).problems
    told = [str(problem) for problem in problems if problem.who == name]
    assert told == (
        [f"{name}: is not a variable of mszoo, and does nothing. Did you mean {meant}?"] if meant else []
    )
    assert not load_catalog({name: "auto", "MSZOO_DISABLE": "1"}).problems


def test_a_kernel_set_that_nobody_has():
    with pytest.raises(SettingsError) as caught:
        load_catalog({"MSZOO_KERNELS": "mindspor"})
    hint = "Did you mean mindspore? Use one of auto, mindspore, cpu, ascend."
    assert str(caught.value) == f"MSZOO_KERNELS: 'mindspor' is not a kernel set. {hint}"
    # The plugin that has it is off, and vLLM's own models serve.
    assert load_catalog({"MSZOO_KERNELS": "acme", "MSZOO_DISABLE": "1"}).settings.kernels == "acme"
