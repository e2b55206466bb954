"""MindSpore One's decoders in the numeric tier of conformance: one of each kind."""

from __future__ import annotations

import importlib.metadata

import pytest

from .test_conformance import check

try:
    importlib.metadata.version("mindone")
except importlib.metadata.PackageNotFoundError:
    pytest.skip("mindone is not installed: make suites", allow_module_level=True)

#: One of each kind: norms of heads, norms of 1 + w and caps, experts, learned positions.
REPRESENTATIVES = (
    pytest.param("Qwen3ForCausalLM", marks=pytest.mark.long),
    pytest.param("Gemma2ForCausalLM", marks=pytest.mark.long),
    "Qwen3MoeForCausalLM",
    pytest.param("OPTForCausalLM", marks=pytest.mark.long),
)


@pytest.mark.parametrize("architecture", REPRESENTATIVES)
def test_numerically_right(architecture: str) -> None:
    """Conformance serves the adapter by its qualified name, so no other can answer."""
    status, report, _ = check(f"mindone.{architecture}", "--tier", "numeric", path=[])
    assert status == 0, report
    (adapter,) = report["adapters"]
    assert adapter["adapter"] == f"mindone.{architecture}"
    assert adapter["tiers"] == {"static": "passed", "numeric": "passed", "engine": "not run"}
