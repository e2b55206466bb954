"""Makes the tiny checkpoint that conformance serves, from a record's ``example_config``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LARGEST = 20_000_000  # weights; Python reads every logit
#: Names of routers, and of single experts' projections.
_PLAIN = (r".*[.](gate|shared_expert_gate|router|router[.]layer|gate[.]wg)$", r".*[.]experts[.]\d+[.].*")


@dataclass(frozen=True)
class Checkpoint:
    """A folder that vLLM serves, and what is in it.

    Attributes:
        folder: config.json and model.safetensors.
        config: config.json.
        weights: the tensors by name, float32.
        model: the same weights in Hugging Face's class, or None if transformers has no such architecture.
    """

    folder: Path
    config: dict[str, Any]
    weights: dict[str, Any]
    model: Any

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, which ChatGLM's configs call otherwise."""
        places = (self.config, self.config.get("text_config", {}))
        fields = (place.get(name) for place in places for name in ("vocab_size", "padded_vocab_size"))
        return int(next(field for field in fields if field is not None))


def make_checkpoint(
    config: Mapping[str, Any],
    architecture: str,
    folder: Path,
    shapes: Callable[[Path], dict[str, tuple[int, ...]]],
) -> Checkpoint:
    """Write random weights for a config; the same config gives the same weights.

    Args:
        config: the fields of config.json.
        architecture: what the config's ``architectures`` names.
        folder: an empty folder.
        shapes: gives the tensors of a folder that holds config.json alone; asked only where transformers
            doesn't know the architecture.
    """
    import torch

    import transformers
    from safetensors.torch import load_file, save_file

    model = None
    model_class = getattr(transformers, architecture, None)
    if model_class is not None:
        fields = dict(config)
        full = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
        full.architectures = [architecture]
        full._attn_implementation = "eager"
        model = model_class(full).eval().float()
        names = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    else:
        written = dict(config) | {"architectures": [architecture]}
        (folder / "config.json").write_text(json.dumps(written), encoding="utf-8")
        names = shapes(folder)
    weights = _random(names)
    if model is None:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
        # Some parts have other names in checkpoints than in Hugging Face's modules, which fuse experts, for one.
        model.save_pretrained(folder)
        weights = load_file(folder / "model.safetensors")
    read = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return Checkpoint(folder, read, weights, model)


def _random(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return wide random values, so that greedy tokens have no near ties; norms lie around 1, as when trained.

    Biases are random too: a model that forgets one must differ.
    """
    import torch

    size = sum(torch.Size(shape).numel() for shape in shapes.values())
    assert size <= LARGEST, f"example_config makes {size} weights: choose a tiny one, at most {LARGEST}"
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        around = 1.0 if re.search(r"norm|\bln_\w+\.weight$", name) and name.endswith("weight") else 0.0
        weights[name] = torch.randn(shape, generator=generator) * 0.1 + around
    return weights


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Write a tokenizer of words ``t0``, ``t1`` and so on: vLLM starts no pooling engine without one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"t{index}": index for index in range(vocab_size)}, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="t0").save_pretrained(folder)


def with_weights(checkpoint: Checkpoint, weights: dict[str, Any], *, int8_activations: bool = False) -> Any:
    """Return Hugging Face's class with other weights; None where the checkpoint has no such class.

    Args:
        checkpoint: has the class.
        weights: torch tensors by name.
        int8_activations: round what goes into each projection as W8A8 does: to 8 bits, by token, symmetrically.
    """
    import copy

    if checkpoint.model is None:
        return None
    model = copy.deepcopy(checkpoint.model)
    model.load_state_dict(weights, strict=False)  # tied weights are stored once
    model.tie_weights()
    for name in projections(checkpoint) if int8_activations else ():
        model.get_submodule(name).register_forward_pre_hook(lambda _, args: (_in_8_bits(args[0]), *args[1:]))
    return model


def _in_8_bits(x: Any) -> Any:
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
    return (x / scale).round() * scale


def projections(checkpoint: Checkpoint) -> list[str]:
    """Return the names of the linear layers inside the model's layers, without ``.weight``.

    Routers and experts aren't among them.
    """
    if checkpoint.model is not None:
        import torch

        linear = [name for name, m in checkpoint.model.named_modules() if isinstance(m, torch.nn.Linear)]
    else:
        matrices = [name for name, value in checkpoint.weights.items() if value.dim() == 2]
        linear = [name.removesuffix(".weight") for name in matrices if name.endswith(".weight")]
    inside = [name for name in linear if re.search(r"\.\d+\.", name)]
    return [name for name in inside if not any(re.match(pattern, name) for pattern in _PLAIN)]


def write_lora(
    checkpoint: Checkpoint, folder: Path, rank: int = 8, leave_out: Collection[str] = ()
) -> dict[str, Any]:
    """Write a random LoRA adapter on all projections, in PEFT's format; return the weights merged with it.

    Args:
        checkpoint: of the model.
        folder: where to.
        rank: of the adapter.
        leave_out: projections that get none, by name.
    """
    import torch

    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, torch.Tensor] = {}
    merged = dict(checkpoint.weights)
    adapted = [name for name in projections(checkpoint) if name not in leave_out]
    for name in adapted:
        weight = checkpoint.weights[f"{name}.weight"]
        a = torch.randn(rank, weight.shape[1], generator=generator) * 0.1
        b = torch.randn(weight.shape[0], rank, generator=generator) * 0.1
        tensors |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
        merged[f"{name}.weight"] = weight + 2.0 * b @ a  # lora_alpha / r is 2
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    modules = sorted({name.rpartition(".")[2] for name in adapted})
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": modules,
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return merged


def write_w8a8(checkpoint: Checkpoint, folder: Path) -> dict[str, Any]:
    """Write the checkpoint with int8 weights per channel, as compressed-tensors stores them.

    Routers and experts stay as they are: vLLM's CPU backend multiplies quantized experts on some processors alone.

    Returns the weights that these int8 values stand for. Activations are quantized when it is served.
    """
    import torch

    from safetensors.torch import save_file

    tensors, rounded = dict(checkpoint.weights), dict(checkpoint.weights)
    for name in projections(checkpoint):
        weight = tensors[f"{name}.weight"]
        scale = weight.abs().amax(1, keepdim=True) / 127
        values = (weight / scale).round()
        tensors[f"{name}.weight"], tensors[f"{name}.weight_scale"] = values.to(torch.int8), scale
        rounded[f"{name}.weight"] = values * scale
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    scheme = {"num_bits": 8, "type": "int", "symmetric": True}
    quantization = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "ignore": ["lm_head", *(f"re:{pattern}" for pattern in _PLAIN)],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": scheme | {"strategy": "channel", "dynamic": False},
                "input_activations": scheme | {"strategy": "token", "dynamic": True},
            }
        },
    }
    config = checkpoint.config | {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return rounded
