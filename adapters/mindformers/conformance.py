"""How mszoo's conformance tests the suite's models that transformers lacks: as Llamas of the same weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from mszoo.conformance import ModelConformance

#: As TeleChat2's checkpoints bring it: the file that ``auto_map`` names in config.json.
TELECHAT2_CONFIGURATION = '''"""The config class of TeleChat2."""

from transformers import PretrainedConfig


class Telechat2Config(PretrainedConfig):
    model_type = "telechat"
    attribute_map = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}

    def __init__(self, **fields):
        self.vocab_size, self.hidden_size = fields.pop("vocab_size", 256), fields.pop("hidden_size", 128)
        self.n_layer, self.n_head = fields.pop("n_layer", 2), fields.pop("n_head", 4)
        self.ffn_hidden_size = fields.pop("ffn_hidden_size", 192)
        self.layer_norm_epsilon = fields.pop("layer_norm_epsilon", 1e-5)
        super().__init__(**fields)
'''
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
_LLAMAS_NAMES = {
    r"^transformer\.word_embeddings\.": "model.embed_tokens.",
    r"^transformer\.ln_f\.": "model.norm.",
    r"^transformer\.h\.": "model.layers.",
    r"\.self_attention\.dense\.": ".self_attn.o_proj.",
    r"\.self_attention\.query\.": ".self_attn.q_proj.",
}


class TestTeleChat2(ModelConformance):
    """The standard tests, with the config class that comes with the checkpoints."""

    architecture = "mindformers.TeleChat2ForCausalLM"
    engine_options: ClassVar[Mapping[str, Any]] = {"trust_remote_code": True}

    @classmethod
    def write_files(cls, folder: Path) -> None:
        """Write the config class."""
        (folder / "configuration_telechat2.py").write_text(TELECHAT2_CONFIGURATION, encoding="utf-8")

    def reference(self, config: dict[str, Any], weights: dict[str, Any], tokens: list[int]) -> Any:
        """Return the logits [T, vocab] of Hugging Face's Llama."""
        return _logits(telechat2_as_llama(config, weights), tokens)


class TestTeleChat3(ModelConformance):
    """The standard tests; its tensors have Llama's names."""

    architecture = "mindformers.TeleChat3ForCausalLM"

    def reference(self, config: dict[str, Any], weights: dict[str, Any], tokens: list[int]) -> Any:
        """Return the logits [T, vocab] of Hugging Face's Llama."""
        fields = {name: config[name] for name in _LLAMAS_FIELDS if name in config}
        return _logits(_llama(fields, weights), tokens)


def telechat2_as_llama(config: Mapping[str, Any], weights: Mapping[str, Any]) -> Any:
    """Return Hugging Face's Llama with the weights of a TeleChat2; biases that TeleChat2 lacks are zero.

    Args:
        config: config.json.
        weights: torch tensors by their name in the checkpoint.
    """
    heads, width = config["n_head"], config["hidden_size"]
    kv_heads = config.get("num_key_value_heads") or heads
    size = width // heads
    tensors = {}
    for name, tensor in weights.items():
        layer, joined, _ = name.partition(".self_attention.key_value.")
        if joined:  # of each head, its key and then its value
            both = tensor.view(kv_heads, 2, size, width)
            prefix = f"model.layers.{layer.rpartition('.')[2]}.self_attn"
            tensors[f"{prefix}.k_proj.weight"] = both[:, 0].reshape(-1, width)
            tensors[f"{prefix}.v_proj.weight"] = both[:, 1].reshape(-1, width)
            continue
        renamed = name
        for theirs, llamas in _LLAMAS_NAMES.items():
            renamed = re.sub(theirs, llamas, renamed)
        tensors[renamed] = tensor
    fields = {
        "vocab_size": config["vocab_size"],
        "hidden_size": width,
        "intermediate_size": config["ffn_hidden_size"],
        "num_hidden_layers": config["n_layer"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": config["layer_norm_epsilon"],
        "attention_bias": True,
        "mlp_bias": True,
    }
    return _llama(fields, tensors)


def _llama(fields: Mapping[str, Any], weights: Mapping[str, Any]) -> Any:
    import torch

    from transformers import LlamaConfig, LlamaForCausalLM

    llama = LlamaForCausalLM(LlamaConfig(**fields, attn_implementation="eager")).eval().float()
    left = dict(weights)
    with torch.no_grad():
        for name, parameter in llama.named_parameters():
            if name in left:
                parameter.copy_(left.pop(name))
            else:
                assert name.endswith("bias"), f"the checkpoint has no {name}"
                parameter.zero_()
    assert not left, f"Llama has no {', '.join(left)}"
    return llama


def _logits(llama: Any, tokens: list[int]) -> Any:
    import torch

    with torch.no_grad():
        return llama(torch.tensor([tokens])).logits[0]
