"""Refuses LoRA adapters that don't fit the model, by name; vLLM copies what it gets into zeros and serves on.

vLLM shows a model no tensor of an adapter. It makes the model known to its manager of adapters, though, which asks
each LoRA layer in turn to take its part of an adapter. In front of the first of them stands a layer of ours.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from mszoo.adapters.vllm.seam import (
    BaseLayerWithLoRA,
    LinearBase,
    LoRARequest,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    VocabParallelEmbedding,
)
from mszoo.registry.errors import RefusalError

_HINT = "Load an adapter that was trained on this model"


class Sizes(NamedTuple):
    """What an adapter has for one module of a checkpoint: lora_A [rank, inputs] and lora_B [outputs, rank]."""

    module: str
    inputs: int
    outputs: int


class Gate(BaseLayerWithLoRA):  # type: ignore[misc]
    """Stands before a LoRA layer in vLLM's manager, and sees each adapter before any layer takes its part.

    Args:
        layer: the LoRA layer that is first asked.
        manager: vLLM's.
        model: whose adapters they are.
    """

    def __init__(self, layer: BaseLayerWithLoRA, manager: Any, model: torch.nn.Module) -> None:
        super().__init__()
        self.base_layer = layer
        # Beside the tree: both have this layer, or will.
        self.__dict__.update(_manager=manager, _model=model)

    def set_lora(self, index: int, lora_a: Any, lora_b: Any) -> None:
        """Check the adapter in a slot, and give the layer its part.

        Raises:
            RefusalError: the adapter doesn't fit the model.
        """
        self._check(index)
        self.base_layer.set_lora(index, lora_a, lora_b)

    def reset_lora(self, index: int) -> None:
        """Check the adapter in a slot, which has nothing for this layer.

        Raises:
            RefusalError: the adapter doesn't fit the model.
        """
        self._check(index)
        self.base_layer.reset_lora(index)

    def _check(self, index: int) -> None:
        adapter = self._manager.lora_index_to_id[index]
        problems = list(misfits(self._manager, self._model, self._manager.get_adapter(adapter)))
        if not problems:
            return
        # vLLM has it in its list by now, and would serve it when asked again.
        self._manager.remove_adapter(adapter)
        more = f", and {len(problems) - 1} more of its modules don't fit" if len(problems) > 1 else ""
        raise RefusalError(f"LoRA adapter {_name_of(adapter)}", problems[0] + more, _HINT)


def guard(manager: Any, model: torch.nn.Module) -> None:
    """Let vLLM's manager of LoRA adapters ask :class:`Gate` before its first layer.

    Layers that mszoo's parts name in ``without_lora`` are given back: who computes with them would add no adapter.
    """
    for owner, module in list(model.named_modules()):
        for leaf in getattr(module, "without_lora", ()):
            layer = manager.modules.pop(f"{owner}.{leaf}", None)
            if layer is not None:
                module.add_module(leaf, layer.base_layer)
    name, layer = next(iter(manager.modules.items()))
    manager.register_module(name, Gate(layer, manager, model))


def misfits(manager: Any, model: torch.nn.Module, adapter: Any) -> Iterator[str]:
    """Yield what of an adapter doesn't fit a model: clauses that name the module.

    Args:
        manager: vLLM's, whose layers take adapters.
        model: with the layers in its tree.
        adapter: vLLM's ``LoRAModel``, the parts of fused layers joined.
    """
    limit = manager.lora_config.max_lora_rank
    for name, weights in adapter.loras.items():
        layer = name
        if manager.is_pooling_model and name not in manager.modules:  # an adapter of a network alone
            layer = f"model.{name}"
        if layer in manager.modules:
            sizes = sizes_of(layer, manager.modules[layer], manager.packed_modules)
            yield from _misfits_of(sizes, weights, limit)
        elif any(layer in parts for parts in manager.packed_modules.values()):
            continue  # vLLM joined it with others, and left it behind
        elif not (manager.lora_config.target_modules and _has(model, layer, manager.packed_modules_mapping)):
            yield f"it has weights for {name}, and this model has no such module that takes any"


def sizes_of(name: str, layer: BaseLayerWithLoRA, packed: dict[str, list[str]]) -> list[Sizes]:
    """Return the sizes of a LoRA layer's parts on all ranks together, in the order in which they are joined.

    Args:
        name: of the layer in the model.
        layer: vLLM's LoRA layer.
        packed: names of the parts of layers that have several.

    Returns:
        Nothing if this is a layer whose sizes vLLM compares itself, or none that mszoo knows.
    """
    if isinstance(layer, Gate):
        layer = layer.base_layer
    base = layer.base_layer
    if isinstance(base, VocabParallelEmbedding):
        return [Sizes(name, base.org_vocab_size, base.embedding_dim)]
    if not isinstance(base, LinearBase):
        hidden, vocabulary = getattr(layer, "hidden_size", None), getattr(base, "org_vocab_size", None)
        return [] if hidden is None or vocabulary is None else [Sizes(name, hidden, vocabulary)]
    outputs = [base.output_size]
    if isinstance(base, QKVParallelLinear):  # its own output_size counts heads twice that two ranks have
        heads = (base.total_num_heads, base.total_num_kv_heads, base.total_num_kv_heads)
        outputs = [base.head_size * count for count in heads]
    elif isinstance(base, MergedColumnParallelLinear):
        outputs = list(base.output_sizes)
    parts = packed.get(name, [name])
    if len(parts) == 1:
        outputs = [sum(outputs)]
    if len(parts) != len(outputs):
        return []
    return [Sizes(part, base.input_size, size) for part, size in zip(parts, outputs, strict=True)]


def _misfits_of(sizes: list[Sizes], weights: Any, limit: int) -> Iterator[str]:
    pairs = [(weights.lora_a, weights.lora_b)]
    if isinstance(weights.lora_a, list):
        pairs = list(zip(weights.lora_a, weights.lora_b, strict=True))
    if len(pairs) != len(sizes):
        return
    # Of several parts vLLM keeps the first one's, and others may have their own.
    declared: int | None = weights.rank
    for part, (a, b) in zip(sizes, pairs, strict=True):
        if a is None and b is None:
            continue
        found = [None if tensor is None else list(tensor.shape) for tensor in (a, b)]
        rank = declared or (a if b is None else b.T).shape[0]
        declared = None
        wanted = [[rank, part.inputs], [part.outputs, rank]]
        if found != wanted and all(tensor is None or not tensor.any() for tensor in (a, b)):
            continue  # vLLM's own, with which it warms up on a device: zeros, of the sizes of a rank
        if found != wanted:
            yield (
                f"{part.module} has lora_A {found[0]} and lora_B {found[1]}, and an adapter of this model and rank "
                f"{rank} has {wanted[0]} and {wanted[1]}"
            )
        elif rank > limit:
            yield f"{part.module} has rank {rank}, and --max-lora-rank is {limit}"


def _has(model: torch.nn.Module, name: str, packed: dict[str, list[str]]) -> bool:
    """Say whether a model has a module of this name, a part of a fused one included."""
    owner, _, leaf = name.rpartition(".")
    fused = (layer for layer, parts in packed.items() if leaf in parts)
    modules = dict(model.named_modules())
    return name in modules or any(f"{owner}.{layer}" in modules for layer in fused)


def _name_of(adapter: int) -> str:
    """Return the name and the path of an adapter, for people.

    vLLM hands a manager numbers alone; the request that has the name is with whoever called it.
    """
    frame = sys._getframe()
    while (frame := frame.f_back) is not None:  # type: ignore[assignment]
        for value in frame.f_locals.values():
            if isinstance(value, LoRARequest) and value.lora_int_id == adapter:
                return f"{value.lora_name!r} ({value.lora_path})"
    return f"number {adapter}"
