"""A short soak of both kernel sets: tests/benchmarks/soak.py is what runs for hours."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..benchmarks import soak
from .server import make_text_checkpoint
from .test_inherited import make_lora

MIB = soak.MIB


def test_a_slope_is_of_all_processes_by_the_minute() -> None:
    samples = [(seconds, {1: (seconds * 2 // 60) * MIB, 2: 7 * MIB}) for seconds in range(0, 1200, 60)]
    assert soak.slope(samples) == pytest.approx(2.0)
    assert soak.slope(samples[:2]) == 0.0
    drawn = soak.plot(samples).splitlines()
    assert drawn[0].split()[0] == "45"
    assert drawn[-1].endswith("19.0 min")


@pytest.mark.long
@pytest.mark.parametrize(("kernels", "lora"), [("cpu", True), ("mindspore", False)])
def test_a_minute_of_mixed_load(kernels: str, lora: bool, tmp_path: Path) -> None:
    folder = make_text_checkpoint(tmp_path / "model", max_position_embeddings=1024)
    adapter = make_lora(tmp_path / "lora", 1) if lora else None
    (tmp_path / "work").mkdir()
    result = soak.soak(folder, tmp_path / "work", 1.0, kernels, lora=adapter, pace=0)
    assert result["wrong"] == []
    assert result["good"]
    (served,) = result["served"]
    assert served.startswith(f"native.LlamaForCausalLM answers (kernel set {kernels}, ")
    assert set(result["done"]) == {
        "reference",
        "chat",
        "structured",
        "disconnect",
        "malformed",
        *(["lora"] if lora else []),
    }
    assert len(result["samples"]) > 10
    assert "0 wrong" in soak.report(result)
