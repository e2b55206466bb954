"""How mszoo's conformance tests the suite's models that transformers lacks."""

from __future__ import annotations

from typing import Any

from mszoo.adapters.native import conformance as native
from mszoo.conformance import ModelConformance

_LLAMAS_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
)


class TestTeleChat2(native.TestTeleChat2):
    """The tests of the native one."""

    architecture = "mindformers.TeleChat2ForCausalLM"


class TestTeleChat3(ModelConformance):
    """The standard tests, with Hugging Face's Llama of the same weights, whose names are the same."""

    architecture = "mindformers.TeleChat3ForCausalLM"

    def reference(self, config: dict[str, Any], weights: dict[str, Any], tokens: list[int]) -> Any:
        """Return the logits [T, vocab] of Hugging Face's Llama."""
        import torch

        from transformers import LlamaConfig, LlamaForCausalLM

        fields = {name: config[name] for name in _LLAMAS_FIELDS if name in config}
        llama = LlamaForCausalLM(LlamaConfig(**fields, attn_implementation="eager")).eval().float()
        llama.load_state_dict(weights)
        with torch.no_grad():
            return llama(torch.tensor([tokens])).logits[0]
