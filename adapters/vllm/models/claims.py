"""Compares what an adapter declares with what its built model has: a false claim is refused or told."""

from __future__ import annotations

from typing import Any

import torch

from mszoo.adapters.vllm.log import log
from mszoo.adapters.vllm.models.features import asked, drafts
from mszoo.adapters.vllm.seam import (
    ColumnParallelLinear,
    LinearBase,
    RowParallelLinear,
    VocabParallelEmbedding,
    VocabParallelEmbeddingWithLoRA,
)
from mszoo.layers.decoder.layer import DecoderLayer
from mszoo.layers.decoder.spec import AttentionSpec, DecoderLayerSpec
from mszoo.layers.embedding import TokenEmbedding
from mszoo.layers.model import Model
from mszoo.registry.decisions import Candidate
from mszoo.registry.errors import RefusalError
from mszoo.registry.records import Capability
from mszoo.registry.text import kind

#: The largest vocabulary for which vLLM has LoRA on logits.
_LORA_VOCABULARY = 258048
_LINEAR = "none of vLLM's linear layers"
_OWN_ROWS = "no checkpoint with queries, keys and values in vLLM's order"
_CONV1D = "no checkpoint with the weights of projections as [out, in]"
_SHARDED = (ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding)


def must_be_a_model(candidate: Candidate, network: Any) -> None:
    """Refuse what isn't a model of mszoo.layers, such as a network of MindSpore cells.

    Raises:
        RefusalError: it isn't.
    """
    if not isinstance(network, Model):
        what = f"{candidate.adapter.model} gives {kind(network)}, which is no model of mszoo.layers"
        hint = "Derive it from CausalLM or Encoder, or serve its cells by a NetworkForCausalLM"
        raise RefusalError(candidate.qualified_name, what, hint)


def check(candidate: Candidate, network: Any, vllm_config: Any) -> None:
    """Find capabilities that the record declares and the built model has no part for.

    A false claim is logged; the model serves without the feature.

    Raises:
        RefusalError: the operator asked for such a feature.
    """
    features = asked(vllm_config)
    left: frozenset[Capability] = getattr(
        network, "left_to_another", frozenset()
    )  # of a plugin's that isn't of mszoo.layers: none
    declared = candidate.adapter.capabilities - (left - features.keys())
    for capability, lack in unmet(declared, network).items():
        what = f"declares {capability.value}, and its model {candidate.adapter.model} has {lack}"
        hint = f"Remove Capability.{capability.name} from its record, or build the model from mszoo.layers"
        problem = RefusalError(f"{candidate.qualified_name} of {candidate.plugin}", what, hint)
        if capability in features:
            raise problem
        log.warning_once("mszoo: %s", problem)
    unread = unreadable(network, vllm_config)
    if unread is not None:
        method = vllm_config.speculative_config.method
        what = f"can't be the target of speculative decoding by {method}: it has {unread}"
        raise RefusalError(candidate.qualified_name, what, "Serve it with another method, or none")


def unreadable(network: Any, vllm_config: Any) -> str | None:
    """Return what a network lacks to be the target of the draft model that was asked for: a clause after "has"."""
    speculative = vllm_config.speculative_config
    if speculative is None or drafts(vllm_config):
        return None
    reads_between = speculative.method in ("eagle3", "dflash", "extract_hidden_states")
    if reads_between and len(decoder_layers(network)) != _layers_of(network):
        return "layers of its own suite, between which mszoo can't read"
    if not speculative.use_eagle():
        return None
    shared = ("model.embed_tokens", "lm_head")
    modules = dict(network.named_modules())
    absent = [name for name in shared if not isinstance(modules.get(name), VocabParallelEmbedding)]
    return f"no {' and no '.join(absent)} to share" if absent else None


def _layers_of(network: torch.nn.Module) -> int:
    config: Any = network.config
    return int(config.get_text_config().num_hidden_layers)


def decoder_layers(network: torch.nn.Module) -> list[DecoderLayer]:
    """Return the decoder layers of a network that are mszoo's, in order."""
    return [module for module in network.modules() if isinstance(module, DecoderLayer)]


def embedding_modules(network: torch.nn.Module, lora_config: Any) -> dict[str, str]:
    """Return the layers beside the linear ones that LoRA adapters may reach, as vLLM wants them.

    An adapter with weights for another layer is refused by vLLM, which names the layer.
    """
    reached: dict[str, str] = {}
    if lora_config is None:
        return reached
    modules = dict(network.named_modules())
    embedding, head = modules.get("model.embed_tokens"), modules.get("lm_head")
    # One that a suite's network calls would get MindSpore's tensors with vLLM's LoRA layer in its place.
    if (
        isinstance(embedding, VocabParallelEmbedding)
        and not isinstance(embedding, TokenEmbedding)
        and VocabParallelEmbeddingWithLoRA.can_replace_layer(embedding, lora_config, [])
    ):
        reached["embed_tokens"] = "input_embeddings"
    if isinstance(head, VocabParallelEmbedding) and head.org_vocab_size <= _LORA_VOCABULARY:
        reached["lm_head"] = "output_embeddings"
    return reached


def unmet(capabilities: frozenset[Capability], network: torch.nn.Module) -> dict[Capability, str]:
    """Return, by capability, what a network lacks to have it: a clause after "has"."""
    modules = list(network.modules())
    lacks: dict[Capability, str] = {}
    # vLLM replaces its linear layers for LoRA, and gives them the weights of quantized checkpoints.
    if not any(isinstance(module, LinearBase) for module in modules):
        lacks |= {Capability.LORA: _LINEAR, Capability.QUANTIZATION: _LINEAR}
    # What an adapter or a quantized checkpoint has for these projections, mszoo can't put in vLLM's order.
    specs = [layer.spec for layer in decoder_layers(network)]
    if any(_has_own_rows(spec) for spec in specs):
        lacks[Capability.LORA] = _OWN_ROWS
    if any(_has_conv1d(spec) for spec in specs):
        lacks |= {Capability.LORA: _CONV1D, Capability.QUANTIZATION: _CONV1D}
    if not any(isinstance(module, _SHARDED) for module in modules):
        lacks[Capability.TENSOR_PARALLEL] = "none of vLLM's parallel layers"
    if not callable(getattr(network, "make_empty_intermediate_tensors", None)):
        lacks[Capability.PIPELINE_PARALLEL] = "no make_empty_intermediate_tensors"
    return {item: lack for item, lack in sorted(lacks.items()) if item in capabilities}


def _has_own_rows(spec: DecoderLayerSpec) -> bool:
    return isinstance(spec.attention, AttentionSpec) and spec.attention.qkv_layout is not None


def _has_conv1d(spec: DecoderLayerSpec) -> bool:
    return any(getattr(half, "conv1d", False) for half in (spec.attention, spec.mlp))
