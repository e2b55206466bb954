"""Checkpoints that name or join tensors otherwise than the modules of mszoo's layers do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mszoo.layers.weights import Expected

#: Names of modules here, and TeleChat2's.
_TELECHAT2 = (
    ("model.layers.", "transformer.h."),
    ("model.embed_tokens.", "transformer.word_embeddings."),
    ("model.norm.", "transformer.ln_f."),
    (".self_attn.o_proj.", ".self_attention.dense."),
    (".self_attn.q_proj.", ".self_attention.query."),
    (".self_attn.k_proj.", ".self_attention.key."),
    (".self_attn.v_proj.", ".self_attention.value."),
)


@dataclass(frozen=True)
class Joined:
    """Several modules' tensors in one of the checkpoint, row by row.

    Attributes:
        parts: the modules, by the checkpoint's names.
        block: rows of a part before the next part's.
    """

    parts: tuple[str, ...]
    block: int

    def split(self, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Give each part's name and tensor."""
        blocks = tensor.unflatten(0, (-1, len(self.parts), self.block))
        for index, part in enumerate(self.parts):
            yield part, blocks[:, index].flatten(0, 1)


@dataclass(frozen=True)
class Layout:
    """How a checkpoint differs.

    Attributes:
        renames: parts of the model's names, and the checkpoint's for them.
        joined: by the checkpoint's name of a module.
    """

    renames: tuple[tuple[str, str], ...] = ()
    joined: Mapping[str, Joined] = field(default_factory=dict)

    def expected(self, table: Mapping[str, Expected]) -> dict[str, Expected]:
        """Return, by the checkpoint's names, what ``table`` expects by the model's."""
        found = {}
        for model_name, entry in table.items():
            name = model_name
            for ours, theirs in self.renames:
                name = name.replace(ours, theirs)
            parent, module, leaf = _split_name(name)
            whole = next((item for item in self.joined.items() if module in item[1].parts), None)
            if whole is None:
                found[name] = entry
            elif module == whole[1].parts[0]:
                shape = entry.shape and (entry.shape[0] * len(whole[1].parts), *entry.shape[1:])
                found[f"{parent}{whole[0]}.{leaf}"] = replace(entry, shard=None, shape=shape)
        return found

    def by_model(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """Give the checkpoint's tensors as the model has them, by its names."""
        for name, tensor in weights:
            parent, module, leaf = _split_name(name)
            whole = self.joined.get(module)
            parts = [(module, tensor)] if whole is None else whole.split(tensor)
            for part, piece in parts:
                model_name = f"{parent}{part}.{leaf}"
                for ours, theirs in self.renames:
                    model_name = model_name.replace(theirs, ours)
                yield model_name, piece


def layout_of(architecture: str, config: Any) -> Layout:
    """Return how the checkpoints of an architecture differ.

    Args:
        architecture: its name.
        config: the Hugging Face config.
    """
    if architecture != "TeleChat2ForCausalLM":
        return Layout()
    head_size = config.hidden_size // config.n_head
    return Layout(_TELECHAT2, {"key_value": Joined(("key", "value"), head_size)})


def _split_name(name: str) -> tuple[str, str, str]:
    """Return a tensor's name as what is before its module (with the dot), the module, and the tensor."""
    parent, _, leaf = name.rpartition(".")
    before, dot, module = parent.rpartition(".")
    return before + dot, module, leaf
