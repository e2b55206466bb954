"""mszoo's standard tests of this package; `pytest --mszoo-tier static` runs those that need no vLLM."""

from mszoo_example.conformance import TestExample

from mszoo.conformance import SuiteConformance

__all__ = ["TestExample", "TestSuite"]


class TestSuite(SuiteConformance):
    """The package as a whole: what it registers, and that registering is light."""

    suite = "example"
