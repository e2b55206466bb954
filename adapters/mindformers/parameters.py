"""From checkpoint tensors to the parameters of the suite's own network, where none of its cells is replaced.

The suite's own table of names forgets some (the norms of GLM-4-MoE's queries and keys), and what it doesn't know it
drops, so the table is made here, parameter by parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mszoo.kernels.exchange import TORCH_DTYPE, to_mindspore
from mszoo.layers.weights import Expected, check_tensors
from mszoo.registry.errors import CheckpointError

import mindspore as ms

#: The suite's names in a ``GPTModel``, and Hugging Face's, where no tensor is fused.
_NAMES = (
    ("embedding.word_embeddings.", "model.embed_tokens."),
    ("output_layer.", "lm_head."),
    ("decoder.layers.", "model.layers."),
    ("decoder.final_layernorm.", "model.norm."),
    (".self_attention.", ".self_attn."),
    (".linear_proj.", ".o_proj."),
    (".q_layernorm.", ".q_norm."),
    (".k_layernorm.", ".k_norm."),
    (".kv_layernorm.", ".kv_a_layernorm."),
    (".pre_mlp_layernorm.", ".post_attention_layernorm."),
    (".linear_fc2.", ".down_proj."),
    (".router.weight", ".gate.weight"),
    (".router.expert_bias", ".gate.e_score_correction_bias"),
)


@dataclass(frozen=True)
class Piece:
    """Where one checkpoint tensor goes.

    Attributes:
        parameter: the suite's name.
        shape: the tensor's.
        start: its first row in the parameter.
        expert: the parameter holds all experts', transposed, and this is the tensor's; None for an ordinary one.
        order: the tensor's rows in the parameter's order; None where it's the same.
    """

    parameter: str
    shape: tuple[int, ...]
    start: int = 0
    expert: int | None = None
    order: torch.Tensor | None = None

    def write(self, tensor: torch.Tensor, parameter: torch.Tensor) -> None:
        """Put the tensor into its part of a parameter's values."""
        whole = parameter if self.expert is None else parameter[self.expert].T
        part = whole.narrow(0, self.start, self.shape[0])
        part.copy_(tensor if self.order is None else tensor[self.order])


def pieces(parameters: Mapping[str, ms.Parameter], config: Any, gate_up: Sequence[str]) -> dict[str, Piece]:
    """Return, by Hugging Face's name of a tensor, where it goes.

    Args:
        parameters: the network's, by the suite's names.
        config: its ``TransformerConfig``.
        gate_up: the checkpoint's modules that the suite's ``linear_fc1`` fuses.
    """
    table: dict[str, Piece] = {}
    for name, parameter in parameters.items():
        shape = tuple(parameter.shape)
        module, _, leaf = _renamed(name).rpartition(".")
        if config.multi_latent_attention:
            module = module.replace(".q_norm", ".q_a_layernorm")
        parent, _, child = module.rpartition(".")
        if child == "linear_qkv":
            heads = config.num_attention_heads * config.kv_channels
            kv_heads = config.num_query_groups * config.kv_channels
            parts = {"q_proj": heads, "k_proj": kv_heads, "v_proj": kv_heads}
            table |= _rows(f"{parent}.{{}}.{leaf}", name, shape, parts)
        elif config.multi_latent_attention and parent.endswith(".self_attn") and child in _LATENT:
            table |= _LATENT[child](config, parent, name, shape)
        elif child == "linear_fc1":
            parts = dict.fromkeys(gate_up, shape[0] // len(gate_up))
            table |= _rows(f"{parent}.{{}}.{leaf}", name, shape, parts)
        elif leaf in ("weight1", "weight2"):
            experts, width, rows = shape
            of_one = ("gate_proj", "up_proj") if leaf == "weight1" else ("down_proj",)
            parts = dict.fromkeys(of_one, rows // len(of_one))
            for expert in range(experts):
                table |= _rows(f"{module}.{expert}.{{}}.weight", name, (rows, width), parts, expert)
        else:
            table[f"{module}.{leaf}"] = Piece(name, shape)
    return table


def load(
    parameters: Mapping[str, ms.Parameter],
    table: Mapping[str, Piece],
    weights: Iterable[tuple[str, torch.Tensor]],
    ignored: Sequence[str],
    who: str,
) -> None:
    """Set parameters to a checkpoint's tensors, each as soon as it is whole.

    Args:
        parameters: the network's, by the suite's names.
        table: :func:`pieces`.
        weights: by Hugging Face's names.
        ignored: names that may be there without being used.
        who: the adapter, for messages.

    Raises:
        CheckpointError: a tensor is unknown or has another shape, or a parameter is not whole at the end.
    """
    missing: dict[str, set[str]] = {}
    for name, piece in table.items():
        missing.setdefault(piece.parameter, set()).add(name)
    begun: dict[str, torch.Tensor] = {}
    for name, tensor in weights:
        found, shape = table.get(name), tuple(tensor.shape)
        if found is None:
            check_tensors({}, {name: shape}, ignored, who)
            continue
        check_tensors({name: Expected(found.parameter, None, found.shape)}, {name: shape}, (), who)
        parameter = parameters[found.parameter]
        if found.parameter not in begun:
            begun[found.parameter] = torch.empty(tuple(parameter.shape), dtype=TORCH_DTYPE[parameter.dtype])
        found.write(tensor, begun[found.parameter])
        missing[found.parameter].discard(name)
        if not missing[found.parameter]:
            parameter.init_data()
            parameter.set_data(to_mindspore(begun.pop(found.parameter)))
    if left := sorted(name for names in missing.values() for name in names):
        raise CheckpointError(
            who,
            f"the checkpoint gave no {', '.join(left[:4])}{', ...' if len(left) > 4 else ''}",
            "Copy or convert the checkpoint again: its config.json describes tensors that its files lack",
        )


def _rows(
    pattern: str, parameter: str, shape: tuple[int, ...], parts: Mapping[str, int], expert: int | None = None
) -> dict[str, Piece]:
    """Return the pieces of a parameter whose rows are several modules' in turn."""
    found, start = {}, 0
    for module, rows in parts.items():
        found[pattern.format(module)] = Piece(parameter, (rows, *shape[1:]), start, expert)
        start += rows
    return found


def _queries_of_full_rank(config: Any, attention: str, name: str, shape: tuple[int, ...]) -> dict[str, Piece]:
    return {f"{attention}.q_proj.weight": Piece(name, shape, order=_rotated_last(config))}


def _queries(config: Any, attention: str, name: str, shape: tuple[int, ...]) -> dict[str, Piece]:
    return {f"{attention}.q_b_proj.weight": Piece(name, shape, order=_rotated_last(config))}


def _down(config: Any, attention: str, name: str, shape: tuple[int, ...]) -> dict[str, Piece]:
    """Keys and values, and after them queries where these have a low rank too."""
    latent, rotated = config.kv_lora_rank, config.qk_pos_emb_head_dim
    order = torch.cat((torch.arange(latent), latent + _halves(rotated)))
    keys = Piece(name, (latent + rotated, shape[1]), order=order)
    found = {f"{attention}.kv_a_proj_with_mqa.weight": keys}
    if shape[0] > latent + rotated:
        queries = Piece(name, (config.q_lora_rank, shape[1]), latent + rotated)
        found[f"{attention}.q_a_proj.weight"] = queries
    return found


def _keys_and_values(config: Any, attention: str, name: str, shape: tuple[int, ...]) -> dict[str, Piece]:
    """All heads' keys, and then all values; in the checkpoint head by head."""
    keys, values = config.qk_head_dim, config.v_head_dim
    rows = torch.arange(shape[0]).view(-1, keys + values)
    order = torch.cat((rows[:, :keys].flatten(), rows[:, keys:].flatten()))
    return {f"{attention}.kv_b_proj.weight": Piece(name, shape, order=order)}


#: Of attention on a latent cache, by the suite's name of a module.
_LATENT = {
    "linear_q_proj": _queries_of_full_rank,
    "linear_q_up_proj": _queries,
    "linear_qkv_down_proj": _down,
    "linear_kv_down_proj": _down,
    "linear_kv_up_proj": _keys_and_values,
}


def _rotated_last(config: Any) -> torch.Tensor:
    """Return the rows of all heads' queries, those that are rotated in halves."""
    plain, rotated = config.qk_head_dim, config.qk_pos_emb_head_dim
    of_a_head = torch.cat((torch.arange(plain), plain + _halves(rotated)))
    starts = torch.arange(config.num_attention_heads) * (plain + rotated)
    return (starts[:, None] + of_a_head).flatten()


def _halves(size: int) -> torch.Tensor:
    """Return rows in which pairs turn, as rows in which halves do: Ascend's op turns halves."""
    return torch.cat((torch.arange(0, size, 2), torch.arange(1, size, 2)))


def _renamed(name: str) -> str:
    for theirs, ours in _NAMES:
        name = name.replace(theirs, ours)
    return name
