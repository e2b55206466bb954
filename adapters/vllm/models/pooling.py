"""What vLLM makes of hidden states: the poolers of encoders, and what of a pooling config contradicts a model."""

from __future__ import annotations

from typing import Any

from mszoo.registry.decisions import Candidate
from mszoo.registry.errors import RefusalError

#: With these in config.json vLLM makes the head for classes of the output projection.
_MADE_OF_WORDS = ("classifier_from_token", "method")


def pooler_of(candidate: Candidate, network: Any, vllm_config: Any) -> Any:
    """Return vLLM's pooler for an encoder.

    Args:
        candidate: its record says what for.
        network: has the head where classes are asked for.
        vllm_config: vLLM's; the current one.
    """
    # Imported here: registration runs in every process.
    from mszoo.adapters.vllm.seam import DispatchPooler, get_seq_pooling_method, pooler_for_token_classify

    config, task = vllm_config.model_config.pooler_config, candidate.adapter.task
    if task == "classify":
        reads = _pooling_of_head(network) or config.seq_pooling_type
        pooling = get_seq_pooling_method(reads)
        return DispatchPooler.for_seq_cls(config, pooling=pooling, classifier=network.class_head)
    if task == "token_classify":
        return pooler_for_token_classify(config, classifier=network.class_head)
    return DispatchPooler.for_embedding(config)


def check(candidate: Candidate, network: Any, vllm_config: Any) -> None:
    """Compare how vLLM is to pool with what the built model is.

    Raises:
        RefusalError: a head for classes was trained on other hidden states; or a decoder's first token is to stand
            for a text that it doesn't see.
    """
    model_config = vllm_config.model_config
    if model_config.runner_type != "pooling":
        return
    # Imported here: half of vLLM comes with it, and registration runs in every process.
    from mszoo.layers import CausalLM, EncoderAttention

    asked = model_config.pooler_config.seq_pooling_type
    wanted, what = _pooling_of_head(network), ""
    # What the record says stands where nobody asked for anything.
    if wanted and asked not in (wanted, candidate.adapter.pooling):
        what = f"the head for classes reads {wanted} pooling"
    elif (
        asked == "CLS"
        and isinstance(network, CausalLM)
        and not any(isinstance(module, EncoderAttention) for module in network.modules())
    ):
        what, wanted = "the first token of this decoder sees nothing but itself", "LAST"
    if what:
        hint = f"""Serve with --pooler-config '{{"seq_pooling_type": "{wanted}"}}'"""
        raise RefusalError(candidate.qualified_name, f"vLLM is to pool by {asked}, and {what}", hint)


def head_for_classes(model_config: Any) -> dict[str, tuple[int, ...]]:
    """Return by name the shapes of the tensors that vLLM's head for classes of a converted decoder needs."""
    configs = (model_config.hf_config, model_config.hf_config.get_text_config())
    made = any(getattr(one, name, None) is not None for one in configs for name in _MADE_OF_WORDS)
    if model_config.convert_type != "classify" or made or model_config.quantization is not None:
        return {}
    return {"score.weight": (configs[0].num_labels, model_config.get_hidden_size())}


def _pooling_of_head(network: Any) -> str:
    """Return what of hidden states a network's head for classes reads; empty where nobody knows."""
    spec = getattr(getattr(network, "class_head", None), "spec", None)
    return str(getattr(spec, "pooling", ""))
