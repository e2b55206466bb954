"""Compares what an adapter declares with what its built model has: a false claim is refused or told."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.linear import ColumnParallelLinear, LinearBase, RowParallelLinear
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

from mszoo.registry.bridge.features import asked
from mszoo.registry.bridge.log import log
from mszoo.registry.catalog import Candidate
from mszoo.registry.errors import RefusalError
from mszoo.registry.records import Capability

_LINEAR = "none of vLLM's linear layers"
_SHARDED = (ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding)


def check(candidate: Candidate, network: Any, vllm_config: Any) -> None:
    """Find capabilities that the record declares and the built model has no part for.

    A false claim is logged; the model serves without the feature.

    Raises:
        RefusalError: the operator asked for such a feature.
    """
    features = asked(vllm_config)
    for capability, lack in unmet(candidate.adapter.capabilities, network).items():
        what = f"declares {capability.value}, and its model {candidate.adapter.model} has {lack}"
        mend = f"Remove Capability.{capability.name} from its record, or build the model from mszoo.layers"
        problem = RefusalError(f"{candidate.qualified_name} of {candidate.plugin}", what, mend)
        if capability in features:
            raise problem
        log.warning_once("mszoo: %s", problem)


def unmet(capabilities: frozenset[Capability], network: torch.nn.Module) -> dict[Capability, str]:
    """Return, by capability, what a network lacks to have it: a clause after "has"."""
    modules = list(network.modules())
    lacks: dict[Capability, str] = {}
    # vLLM replaces its linear layers for LoRA, and gives them the weights of quantized checkpoints.
    if not any(isinstance(module, LinearBase) for module in modules):
        lacks |= {Capability.LORA: _LINEAR, Capability.QUANTIZATION: _LINEAR}
    if not any(isinstance(module, _SHARDED) for module in modules):
        lacks[Capability.TENSOR_PARALLEL] = "none of vLLM's parallel layers"
    if not callable(getattr(network, "make_empty_intermediate_tensors", None)):
        lacks[Capability.PIPELINE_PARALLEL] = "no make_empty_intermediate_tensors"
    return {item: lack for item, lack in sorted(lacks.items()) if item in capabilities}
