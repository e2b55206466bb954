"""What of a LoRA adapter doesn't fit, by its tensors alone."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from mszoo.adapters.vllm.models.lora import Sizes, _misfits_of

WHOLE = [Sizes("model.layers.0.self_attn.q_proj", 64, 128)]


def misfits(a: torch.Tensor, b: torch.Tensor) -> list[str]:
    return list(_misfits_of(WHOLE, SimpleNamespace(rank=8, lora_a=a, lora_b=b), 8))


def test_the_zeros_with_which_vllm_warms_up_have_the_sizes_of_a_rank() -> None:
    """On a device, and only there, vLLM makes such adapters itself: two ranks refused them, and didn't start."""
    assert misfits(torch.zeros(8, 64), torch.zeros(64, 8)) == []


def test_another_adapter_of_these_sizes_does_not_fit() -> None:
    for a, b in ((torch.ones(8, 64), torch.zeros(64, 8)), (torch.zeros(8, 64), torch.ones(64, 8))):
        (told,) = misfits(a, b)
        assert "has lora_A [8, 64] and lora_B [64, 8], and an adapter of this model" in told
    assert misfits(torch.ones(8, 64), torch.ones(128, 8)) == []
