"""What all tests share."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# A shell starts background jobs with interrupts ignored, and children inherit that: the tests that interrupt a
# child would then wait in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)

# `make fuzz`: as many examples as it says, and others at each run. One that makes folders is slow to draw, which is
# no fault; one that takes a minute is.
settings.register_profile(
    "fuzz",
    deadline=60_000,
    derandomize=False,
    print_blob=True,
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# Packages that tests install; their own tests run where they are installed.
collect_ignore = ["example_plugin"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the long tests too")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: runs with --all alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all"):
        return
    skip = pytest.mark.skip(reason="takes long: runs with ARGS=--all, as in make test ARGS=--all")
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(skip)
