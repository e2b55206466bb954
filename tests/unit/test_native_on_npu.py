"""What the native suite leaves to vllm-ascend's own models, by name."""

from __future__ import annotations

from typing import Any

import pytest

from mszoo.adapters import native

LEFT = [record.architecture for record in native.mszoo_model_adapters() if "npu" not in record.devices]


@pytest.mark.parametrize("architecture", LEFT)
def test_what_is_for_cpu_is_no_candidate_and_says_so(architecture: str, make_catalog: Any) -> None:
    catalog = make_catalog({native.mszoo_suite(): list(native.mszoo_model_adapters())}, device="npu")
    decision = catalog.decide(architecture)
    (verdict,) = decision.verdicts
    assert (decision.chain, verdict.status) == ((), "unavailable")
    assert verdict.reason == "runs on cpu, not on npu: serve it on cpu"


def test_heads_are_among_them_and_decoders_are_not() -> None:
    assert {"EagleLlamaForCausalLM", "MedusaModel", "DeepSeekMTPModel"} <= set(LEFT)
    assert "LlamaForCausalLM" not in LEFT
