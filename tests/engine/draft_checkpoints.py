"""Checkpoints of what proposes tokens to a model: smaller models, EAGLE and Medusa heads, layers that predict.

Heads of random weights guess nothing. These are made for a target whose next token depends on the last one more
than on all others (:func:`make_predictable`), and guess with its own output projection.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from safetensors.torch import load_file, save_file

_SMALL = 0.02


def make_predictable(source: Path, folder: Path) -> Path:
    """Write a checkpoint again with token embeddings that outweigh what its layers add to them."""
    shutil.copytree(source, folder)
    tensors = load_file(source / "model.safetensors")
    tensors["model.embed_tokens.weight"] *= 100
    return _save(tensors, folder)


def make_draft(source: Path, folder: Path, layers: int, **fields: Any) -> Path:
    """Write the first layers of a checkpoint: a draft model that is often right."""
    shutil.copytree(source, folder)
    tensors = load_file(source / "model.safetensors")
    later = tuple(f"model.layers.{index}." for index in range(layers, 100))
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(later)}
    types = _config(source).get("layer_types")
    fields |= {} if types is None else {"layer_types": types[:layers]}
    return _save(kept, folder, _config(source) | {"num_hidden_layers": layers} | fields)


def make_eagle(source: Path, folder: Path, layers: int = 1) -> Path:
    """Write an EAGLE head: it guesses by the embedding of the last token."""
    config = _config(source)
    hidden, draw = config["hidden_size"], _drawing(5)
    tensors = {"fc.weight": draw(hidden, 2 * hidden)}
    tensors["fc.weight"][:, :hidden] += torch.eye(hidden)
    for index in range(layers):
        tensors |= _layer(config, f"layers.{index}.", hidden, draw)
        if index > 0:
            tensors[f"layers.{index}.input_layernorm.weight"] = 1 + draw(hidden)
    return _save(tensors, folder, _of_llama(config, layers) | {"architectures": ["LlamaForCausalLM"]})


def make_eagle3(source: Path, folder: Path, vocabulary: int | None = None, **fields: Any) -> Path:
    """Write an EAGLE-3 head for a checkpoint, which reads before, between and after its layers.

    Args:
        source: the target.
        folder: the new one.
        vocabulary: guesses are among the first so many tokens and their like, by a table of its own; None: all.
        fields: of the config.
    """
    config = _config(source)
    hidden, draw = config["hidden_size"], _drawing(5)
    tensors = {"fc.weight": draw(hidden, 3 * hidden), "lm_head.weight": _guesses(source)}
    tensors["fc.weight"][:, 2 * hidden :] += torch.eye(hidden)
    tensors |= _layer(config, "midlayer.", 2 * hidden, draw)
    norms = ("norm", "midlayer.input_layernorm", "midlayer.hidden_norm")
    tensors |= {f"{name}.weight": 1 + draw(hidden) for name in norms}
    if fields.get("norm_before_fc"):
        tensors["input_norm.weight"] = 1 + draw(3 * hidden)
    if vocabulary is not None:
        kept = torch.arange(vocabulary) * (config["vocab_size"] // vocabulary)
        tensors["lm_head.weight"] = tensors["lm_head.weight"][kept].contiguous()
        tensors["d2t"] = kept - torch.arange(vocabulary)
        tensors["t2d"] = torch.isin(torch.arange(config["vocab_size"]), kept)
    own = {
        "architectures": ["LlamaForCausalLMEagle3"],
        "draft_vocab_size": vocabulary or config["vocab_size"],
        "eagle_aux_hidden_state_layer_ids": [0, 1, config["num_hidden_layers"]],
    }
    return _save(tensors, folder, _of_llama(config, 1) | own | fields)


def make_medusa(source: Path, folder: Path, heads: int = 2) -> Path:
    """Write Medusa heads: each guesses one token further."""
    config = _config(source)
    hidden, draw = config["hidden_size"], _drawing(5)
    tensors = {}
    for index in range(heads):
        tensors[f"blocks.{index}.layers.0.weight"] = draw(hidden, hidden)
        tensors[f"lm_heads.{index}.weight"] = _guesses(source, index + 1)
    fields = {"hidden_size": hidden, "vocab_size": config["vocab_size"], "num_heads": heads}
    return _save(tensors, folder, {"model_type": "medusa", "architectures": ["MedusaModel"]} | fields)


def make_predicting(source: Path, folder: Path) -> Path:
    """Write a checkpoint with experts again, with a layer behind the others that predicts a further token (MTP)."""
    shutil.copytree(source, folder)
    config, tensors = _config(source), load_file(source / "model.safetensors")
    count, hidden, draw = config["num_hidden_layers"], config["hidden_size"], _drawing(5)
    last, layer = f"model.layers.{count - 1}.", f"model.layers.{count}."
    for name in [name for name in tensors if name.startswith(last)]:
        scale = 0.1 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
        tensors[layer + name.removeprefix(last)] = tensors[name].flip(0) * scale
    tensors[f"{layer}eh_proj.weight"] = draw(hidden, 2 * hidden)
    tensors[f"{layer}eh_proj.weight"][:, :hidden] += torch.eye(hidden)
    for name in ("enorm", "hnorm", "shared_head.norm"):
        tensors[f"{layer}{name}.weight"] = 1 + draw(hidden)
    tensors[f"{layer}shared_head.head.weight"] = tensors["lm_head.weight"].clone()
    tensors[f"{layer}embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
    # As published configs say it; vLLM's own looks for a bias and takes sigmoids by these.
    fields = {"num_nextn_predict_layers": 1, "topk_method": "noaux_tc", "scoring_func": "sigmoid"}
    return _save(tensors, folder, config | fields)


def _guesses(source: Path, steps: int = 1) -> torch.Tensor:
    """Return an output projection that makes, of hidden states, the logits of the token after ``steps`` further."""
    tensors = load_file(source / "model.safetensors")
    table, head = tensors["model.embed_tokens.weight"], tensors["lm_head.weight"]
    unit = torch.nn.functional.normalize(table) * table.shape[1] ** 0.5
    after = (unit * tensors["model.norm.weight"] @ head.t()).argmax(1)
    further = torch.arange(len(table))
    for _ in range(steps):
        further = after[further]
    # A token's logit is that of one of those which it comes after.
    guesses = torch.zeros_like(head)
    guesses[further] = head
    return guesses


def _layer(config: dict[str, Any], name: str, width: int, draw: Any) -> dict[str, torch.Tensor]:
    """Return a Llama's layer whose attention reads ``width`` values of a token."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    shapes = {
        "self_attn.q_proj": (queries, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    norm = {f"{name}post_attention_layernorm.weight": 1 + draw(hidden)}
    return norm | {f"{name}{part}.weight": draw(*shape) for part, shape in shapes.items()}


def _drawing(seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator) * _SMALL


def _of_llama(config: dict[str, Any], layers: int) -> dict[str, Any]:
    kept = {name: value for name, value in config.items() if name != "layer_types"}
    return kept | {"model_type": "llama", "num_hidden_layers": layers}


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def _save(tensors: dict[str, torch.Tensor], folder: Path, config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder
