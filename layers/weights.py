"""From checkpoint tensors to the parameters of vLLM's layers, by one table of what the model expects."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from mszoo.layers.seam import (
    LinearBase,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    VocabParallelEmbedding,
    default_weight_loader,
    get_tensor_model_parallel_rank,
    init_logger,
)
from mszoo.layers.seam import VllmAttention as Attention
from mszoo.registry.errors import BrokenCheckpointError, CheckpointError

logger = init_logger("vllm.mszoo.layers")

#: Tensors that old checkpoints carry and every implementation computes instead.
_COMPUTED = (
    "rotary_emb.inv_freq",
    "rotary_pos_emb.inv_freq",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
)
#: The order of a GPTQ layer's inputs, which every kernel of vLLM takes to be the natural one.
_INPUT_ORDER = ".g_idx"
#: What vLLM's LoRA layers call the layer in whose place they are.
_LORA_BASE = ".base_layer."
#: What quantization tools leave beside projections without a bias; vLLM and Hugging Face leave it out too.
_BIAS = ".bias"
#: Names of a norm's tensors in checkpoints of TensorFlow's, and what Hugging Face makes of them.
_RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


@dataclass(frozen=True)
class Expected:
    """Where one checkpoint tensor goes.

    Attributes:
        parameter: name of the model's parameter.
        shard: the part of a fused parameter: "q", "k", "v", an index, or None for the whole.
        shape: the tensor's shape in the checkpoint, or None where the format decides it (quantized weights).
        required: False where vLLM has a default (the KV cache scales of quantized checkpoints).
        other_shape: what it may be as well, which ``load`` tells apart.
        load: puts the tensor into the parameter, called as ``load(parameter, tensor)``; None for the parameter's
            own loader, which gets the shard.
    """

    parameter: str
    shard: str | int | None
    shape: tuple[int, ...] | None
    required: bool = True
    other_shape: tuple[int, ...] | None = None
    load: Callable[[torch.nn.Parameter, torch.Tensor], None] | None = None


@runtime_checkable
class HasOwnTensors(Protocol):
    """A module whose checkpoint tensors aren't its parameters by name: fused, transposed or in another order."""

    def checkpoint_tensors(self, name: str) -> dict[str, Expected]:
        """Return, by checkpoint name, the tensors of the parameters below it that it answers for.

        Args:
            name: the module's name in the model.
        """


def expected_tensors(
    model: torch.nn.Module, packed_modules: Mapping[str, Sequence[str]]
) -> dict[str, Expected]:
    """Return, by checkpoint name, every tensor that ``model`` needs.

    Args:
        model: the model, built but not loaded.
        packed_modules: checkpoint modules that one vLLM layer fuses, such as
            ``{"qkv_proj": ("q_proj", "k_proj", "v_proj")}``.
    """
    table: dict[str, Expected] = {}
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if isinstance(module, HasOwnTensors):
            table |= module.checkpoint_tensors(name)
    answered_for = {entry.parameter for entry in table.values()}
    for name, _ in model.named_parameters():
        if name in answered_for:
            continue
        module_name, _, leaf = name.rpartition(".")
        module = modules[module_name]
        parent, _, child = module_name.rpartition(".")
        prefix = f"{parent}." if parent else ""
        if isinstance(module, (QKVParallelLinear, MergedColumnParallelLinear)) and child in packed_modules:
            parts = packed_modules[child]
            shards: Sequence[str | int | None] = (
                ("q", "k", "v") if isinstance(module, QKVParallelLinear) else range(len(module.output_sizes))
            )
            if len(parts) == 1:  # the checkpoint has them in one tensor too
                shards = (None,)
            for part, shard in zip(parts, shards, strict=True):
                table[f"{prefix}{part}.{leaf}"] = Expected(name, shard, checkpoint_shape(module, leaf, shard))
        else:
            required = not isinstance(module, Attention)
            shape = checkpoint_shape(module, leaf, None) if required else None
            table[name] = Expected(name, None, shape, required)
    return table


def check_tensors(
    expected: Mapping[str, Expected], found: Mapping[str, tuple[int, ...]], ignored: Iterable[str], where: str
) -> None:
    """Compare a checkpoint's tensors with the expected ones, before any of them is read.

    Args:
        expected: :func:`expected_tensors` of the model.
        found: shape by name, from the checkpoint's headers.
        ignored: names that may be there without being used (a tied ``lm_head.weight``); "*" at the end of one
            stands for any.
        where: the checkpoint, for the message.

    Raises:
        BrokenCheckpointError: a tensor is missing, and those without a place are too small to be it under another
            name; or one has another shape.
        CheckpointError: a tensor has no place here, and it may have one elsewhere.
    """
    unused = set(ignored)
    missing = [name for name, entry in expected.items() if entry.required and name not in found]
    extra = [name for name in found if name not in expected and not _is_left_out(name, unused)]
    if missing:
        needed = sum(math.prod(expected[name].shape or (0,)) for name in missing)
        is_elsewhere = bool(extra) and needed <= sum(math.prod(found[name]) for name in extra)
        kind = CheckpointError if is_elsewhere else BrokenCheckpointError
        unplaced = f", and the model has no place for {_list(extra)}" if extra else ""
        raise kind(
            where,
            f"{_list(missing)} {'is' if len(missing) == 1 else 'are'} missing from the checkpoint{unplaced}",
            "Copy or convert the checkpoint again: its config.json describes tensors that its files lack",
        )
    if extra:
        raise CheckpointError(
            where,
            f"the model has no place for {_list(extra)}",
            "Compare config.json with the checkpoint: it may describe another model, or lack a field",
        )
    for name, entry in expected.items():
        if entry.shape is None or name not in found:
            continue
        if tuple(found[name]) not in (entry.shape, entry.other_shape):
            raise BrokenCheckpointError(
                where,
                f"tensor {name} has shape {list(found[name])}, and config.json makes it {list(entry.shape)}",
                "Mend config.json, or convert the checkpoint again",
            )


def load(
    model: torch.nn.Module,
    expected: Mapping[str, Expected],
    weights: Iterable[tuple[str, torch.Tensor]],
    ignored: Iterable[str],
) -> set[str]:
    """Load checkpoint tensors into the model's parameters and return the parameters' names.

    Args:
        model: the model; vLLM may have put LoRA layers in place of its layers.
        expected: :func:`expected_tensors` of it, as it was built.
        weights: name and value of each tensor.
        ignored: as of :func:`check_tensors`.

    Raises:
        CheckpointError: a tensor is unknown, has another shape than the model expects, or orders a GPTQ layer's
            inputs by activation, which no kernel does.
    """
    parameters = {name.replace(_LORA_BASE, "."): value for name, value in model.named_parameters()}
    unused = set(ignored)
    loaded = set()
    for name, tensor in weights:
        entry = expected.get(name)
        if entry is None:
            if name.endswith(_INPUT_ORDER):
                _check_input_order(name, tensor)
            if _is_left_out(name, unused):
                if name.endswith(_BIAS) and name not in unused and tensor.any():
                    logger.warning_once(
                        "mszoo: the checkpoint has biases that the model has no place for, %s and maybe others; "
                        "they are left out, as by vLLM and Hugging Face",
                        name,
                    )
                continue
            check_tensors({}, {name: tuple(tensor.shape)}, (), "checkpoint")
            continue
        if entry.shape is not None:
            check_tensors({name: entry}, {name: tuple(tensor.shape)}, (), "checkpoint")
        parameter = parameters[entry.parameter]
        loader = getattr(parameter, "weight_loader", default_weight_loader)
        if entry.load is not None:
            entry.load(parameter, tensor)
        elif entry.shard is None:
            loader(parameter, tensor)
        else:
            loader(parameter, tensor, entry.shard)
        loaded.add(entry.parameter)
    return loaded


def checkpoint_shape(module: torch.nn.Module, leaf: str, shard: str | int | None) -> tuple[int, ...] | None:
    """Return the whole (unsharded) shape of a checkpoint tensor, or None where the model can't know it.

    Args:
        module: the layer of vLLM's, or any module.
        leaf: the name of its parameter.
        shard: as of :class:`Expected`.
    """
    parameter = getattr(module, leaf)
    if isinstance(module, VocabParallelEmbedding):
        of_leaf = {"weight": (module.org_vocab_size, module.embedding_dim), "bias": (module.org_vocab_size,)}
        return of_leaf.get(leaf)
    if not isinstance(module, LinearBase):
        return tuple(parameter.shape)
    if leaf not in ("weight", "bias") or not parameter.is_floating_point():
        return None
    if isinstance(module, QKVParallelLinear):
        kv_heads = module.total_num_kv_heads
        of_shard = {"q": module.total_num_heads, None: module.total_num_heads + 2 * kv_heads}
        heads = of_shard.get(None if shard is None else str(shard), kv_heads)
        rows = heads * module.head_size
    elif isinstance(module, MergedColumnParallelLinear):
        rows = module.output_sizes[shard] if isinstance(shard, int) else sum(module.output_sizes)
    else:
        rows = module.output_size
    return (rows, module.input_size) if leaf == "weight" else (rows,)


def _check_input_order(name: str, groups: torch.Tensor) -> None:
    """Refuse a GPTQ layer whose inputs aren't in order: the group of each input, [in], has to ascend."""
    if bool((groups[1:] < groups[:-1]).any()):
        raise CheckpointError(
            "checkpoint",
            f"{name} orders the inputs by activation, which vLLM's kernels pass over",
            "Quantize with desc_act false, or with static groups",
        )


def load_part_of_rank_along(axis: int, copies: int = 1) -> Callable[[torch.nn.Parameter, torch.Tensor], None]:
    """Return what loads this rank's part of a tensor that ranks share out evenly along an axis.

    Args:
        axis: the axis.
        copies: how many ranks, one after the other, have the same part.
    """

    def load_part(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> None:
        size = parameter.shape[axis]
        start = get_tensor_model_parallel_rank() // copies * size if tensor.shape[axis] > size else 0
        parameter.data.copy_(tensor.narrow(axis, start, size))

    return load_part


def modern_name(name: str) -> str:
    """Return Hugging Face's name of a tensor that an old checkpoint calls otherwise."""
    for old, new in _RENAMED.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _is_left_out(name: str, ignored: Collection[str]) -> bool:
    """Say whether a tensor that the model has no place for changes nothing: vLLM's loader leaves it out too."""
    if name in ignored or name.endswith((*_COMPUTED, _INPUT_ORDER, _BIAS)):
        return True
    return name.startswith(tuple(one[:-1] for one in ignored if one.endswith("*")))


def _list(names: Sequence[str], limit: int = 4) -> str:
    shown = ", ".join(names[:limit])
    plural = "tensors" if len(names) > 1 else "tensor"
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{plural} {shown}{rest}"
