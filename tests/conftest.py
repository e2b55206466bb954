"""What all tests share."""

import signal

import pytest

# A shell starts background jobs with interrupts ignored, and children inherit that: the tests that interrupt a
# child would then wait in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)

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
