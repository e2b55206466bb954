"""The pytest plugin of mszoo.conformance: the ``--mszoo-tier`` option, tiers in order, and a log of results."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

TIERS = ("static", "numeric", "engine")
GUARD = "test_overridden_tests_say_why"
MARKER = "mszoo_tier(name): tier of a test of mszoo.conformance: static, numeric or engine"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("mszoo")
    group.addoption(
        "--mszoo-tier",
        choices=TIERS,
        default=TIERS[-1],
        help="run conformance tests up to this tier: static, numeric or engine (default: engine)",
    )
    group.addoption(
        "--mszoo-log", type=Path, help="write each conformance result to this file, a JSON line each"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", MARKER)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of higher tiers, and remember what each test is about."""
    from mszoo.conformance.base import Conformance

    last = TIERS.index(config.getoption("--mszoo-tier"))
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        owner = getattr(item, "cls", None)
        if not (isinstance(owner, type) and issubclass(owner, Conformance)):
            kept.append(item)
            continue
        tier = _tier(item, owner)
        about = {
            "adapter": _subject(owner),
            "kind": owner.kind,
            "tier": tier,
            "test": item.name,
        }
        item.user_properties.append(("mszoo", about))
        (kept if TIERS.index(tier) <= last else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept
    _write(config, {"collected": [_about(item.user_properties) for item in items if item.user_properties]})


def _subject(owner: Any) -> str:
    try:
        return str(owner.subject())
    except AttributeError:  # the class doesn't say what it tests, and each of its tests fails with that
        return str(owner.__name__)


def _tier(item: pytest.Item, owner: type) -> str:
    """Return a test's tier: its mark, or that of the standard test which it overrides."""
    name = getattr(item, "originalname", item.name)
    for function in (getattr(base, "__dict__", {}).get(name) for base in owner.__mro__):
        for mark in getattr(function, "pytestmark", []):
            if mark.name == "mszoo_tier":
                return str(mark.args[0])
    return TIERS[0]


#: Results of tests that aren't over: set-up, call and tear-down report apart.
_PENDING = pytest.StashKey[dict[str, dict[str, Any]]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, Any, Any]:
    """Write the outcome of a conformance test."""
    report = yield
    if report.skipped and getattr(item, "originalname", "") == GUARD:
        # A mark on the whole class reaches the test that judges such marks.
        report.outcome = "failed"
        owner: Any = getattr(item, "cls", None)
        report.longrepr = (
            f"{owner.__name__} is skipped or expected to fail as a whole: mark single tests "
            "pytest.mark.xfail(reason='...')"
        )
    about = _about(item.user_properties)
    if about is None or item.config.getoption("--mszoo-log") is None:
        return report
    pending = item.config.stash.setdefault(_PENDING, {})
    entry = pending.setdefault(item.nodeid, about | {"outcome": "passed", "reason": None, "seconds": 0.0})
    entry["seconds"] = round(entry["seconds"] + report.duration, 3)
    if report.failed:
        entry["outcome"] = "failed" if report.when == "call" else "error"
        entry["reason"] = _failure(report)
    elif report.skipped and hasattr(report, "wasxfail"):
        entry["outcome"], entry["reason"] = "xfailed", str(report.wasxfail).removeprefix("reason: ")
    elif report.skipped:
        entry["outcome"] = "skipped"
        entry["reason"] = str(report.longrepr[2]).removeprefix("Skipped: ")
    elif hasattr(report, "wasxfail") and report.when == "call":
        entry["outcome"] = "xpassed"
        entry["reason"] = f"passed, and was expected to fail: {report.wasxfail}"
    measured = [str(value) for name, value in item.user_properties if name == "measured"]
    if measured:
        entry["measured"] = "; ".join(measured)
    if report.when == "teardown":
        _write(item.config, pending.pop(item.nodeid))
    return report


def _failure(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message if crash is not None else report.longrepr).strip()
    # pytest repeats a failed condition under our own message.
    return text.removeprefix("Failed: ").removeprefix("AssertionError: ").partition("\nassert ")[0]


def _about(properties: list[tuple[str, Any]]) -> Any:
    return next((dict(value) for name, value in properties if name == "mszoo"), None)


def _write(config: pytest.Config, entry: dict[str, Any]) -> None:
    path: Path | None = config.getoption("--mszoo-log")
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
