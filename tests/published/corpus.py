"""The corpus: shrunk configs of published models, random checkpoints of them, and Hugging Face's results."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .readers import class_of, config_of, reference_type
from .shrink import CORPUS

#: Token ids of the prompts: one alone, a short one, one longer than the windows of the corpus.
PROMPTS = ([7], [5, 17, 99, 201, 3, 44, 180], list(range(3, 60)))
LENGTH = 128


def read() -> dict[str, dict[str, Any]]:
    """Return the configs by the name of the model that they are of."""
    found: dict[str, dict[str, Any]] = json.loads(CORPUS.read_text(encoding="utf-8"))
    return found


def write_config(config: Mapping[str, Any], folder: Path) -> None:
    """Write config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def reference_of(folder: Path) -> Any:
    """Return Hugging Face's model of a folder's config, with random weights."""
    import torch

    hf = _config_in(folder)
    torch.manual_seed(0)
    model = class_of(hf.architectures[0])(hf).float().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            around = (
                1.0 if re.search(r"norm|\bln_\w+\.weight$", name, re.I) and name.endswith("weight") else 0.0
            )
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1 + around)
    model.tie_weights()
    return model


def load_reference(folder: Path) -> Any:
    """Return Hugging Face's model of a folder's config and weights, in float32."""
    import torch

    hf = _config_in(folder)
    return class_of(hf.architectures[0]).from_pretrained(
        folder, config=hf, dtype=torch.float32, attn_implementation="eager"
    )


def _config_in(folder: Path) -> Any:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    hf = config_of(config)
    hf.architectures = config["architectures"][:1]
    hf.model_type = reference_type(config)  # by it transformers knows how its checkpoints name experts
    hf._attn_implementation = "eager"
    rope = getattr(hf, "rope_parameters", None) or {}
    if "original_max_position_embeddings" in rope and hf.model_type == "minicpm3":
        # Hugging Face's class takes none out of the two lengths, and fails without.
        rope.setdefault("factor", hf.max_position_embeddings / rope["original_max_position_embeddings"])
    return hf


def write_checkpoint(model: Any, folder: Path) -> None:
    """Write a model's weights beside config.json, which stays as it is."""
    from safetensors.torch import load_file, save_file

    inner = folder / "saved"
    model.save_pretrained(inner)
    weights = load_file(inner / "model.safetensors")
    for file in inner.iterdir():
        file.unlink()
    inner.rmdir()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def expected(model: Any, tokens: list[int], *, pools: bool) -> Any:
    """Return the logits [T, vocab] of tokens, or of a model that is pooled the last hidden states [T, hidden].

    Of one with a head for classes, their scores [classes].
    """
    import torch

    with torch.no_grad():
        has_states = pools and not type(model).__name__.endswith("ForSequenceClassification")
        given = (model.base_model if has_states else model)(torch.tensor([tokens]))
    return (given.last_hidden_state if has_states else given.logits)[0]
