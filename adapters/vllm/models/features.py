"""Refuses, by name and before anything is built, what an adapter doesn't declare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mszoo.registry.decisions import Candidate
from mszoo.registry.errors import RefusalError
from mszoo.registry.records import DTYPES, Capability, ModelAdapter

#: How an operator asks for each feature.
FLAGS = {
    Capability.LORA: "--enable-lora",
    Capability.TENSOR_PARALLEL: "--tensor-parallel-size",
    Capability.PIPELINE_PARALLEL: "--pipeline-parallel-size",
    Capability.QUANTIZATION: "--quantization",
}

#: What vLLM makes of a decoder with ``--convert``: a model whose hidden states are pooled, with a head for classes.
CONVERSIONS = ("embed", "classify")


def refused(adapter: ModelAdapter) -> list[str]:
    """Return what an adapter refuses by its record, as vLLM's options."""
    dtypes = [f"--dtype {dtype}" for dtype in DTYPES if dtype not in adapter.dtypes]
    flags = [flag for capability, flag in FLAGS.items() if capability not in adapter.capabilities]
    runner = ["--runner generate"] if adapter.pooling or adapter.drafts else []
    images = ["--convert", "--mm-encoder-only", "--enable-tower-connector-lora"] if adapter.modalities else []
    videos = ["--video-pruning-rate"] if "video" in adapter.modalities else []
    return [*dtypes, *flags, *runner, *images, *videos]


def check(candidate: Candidate, vllm_config: Any) -> None:
    """Compare what the operator asked of vLLM with what the candidate's record declares.

    Raises:
        RefusalError: naming the first feature that isn't declared.
    """
    model = vllm_config.model_config
    adapter = candidate.adapter
    dtype = str(model.dtype).removeprefix("torch.")
    if dtype not in adapter.dtypes:
        raise _refusal(candidate, f"dtype {dtype}", f"Serve with --dtype {adapter.dtypes[0]}")
    runner = "pooling" if adapter.pooling or model.convert_type in CONVERSIONS else "generate"
    if adapter.drafts and not drafts(vllm_config):
        raise _refusal(candidate, "serving by itself", "Name it in --speculative-config of another model")
    if model.runner_type != runner and not (runner == "generate" and drafts(vllm_config)):
        raise _refusal(candidate, f"the {model.runner_type} runner", f"Serve it with --runner {runner}")
    if model.convert_type not in (
        ("none",) if adapter.pooling or adapter.modalities else ("none", *CONVERSIONS)
    ):
        raise _refusal(candidate, f"--convert {model.convert_type}", "Serve it without")
    _check_modalities(candidate, vllm_config)
    if has_mistral_names(vllm_config):
        raise _refusal(
            candidate, "weights under Mistral's own names", "Convert them to Hugging Face's format"
        )
    for capability, feature in asked(vllm_config).items():
        if capability not in adapter.capabilities:
            raise _refusal(candidate, feature, "Serve without it, or with another implementation")


def _check_modalities(candidate: Candidate, vllm_config: Any) -> None:
    """Compare what a candidate reads with what vLLM's class of the architecture does, which is of the first one.

    Raises:
        RefusalError: it reads less or more, or the operator asked for a part of the model.
    """
    reads, multimodal = candidate.adapter.modalities, vllm_config.model_config.multimodal_config
    if bool(reads) != (multimodal is not None):
        hint = "Serve it with another implementation"
        what = "serving text alone" if reads else "images beside text"
        raise _refusal(candidate, what, hint)
    if not reads:
        return
    if getattr(multimodal, "mm_encoder_only", False):
        raise _refusal(candidate, "--mm-encoder-only", "Serve it without, or with another implementation")
    if getattr(multimodal, "video_pruning_rate", None):  # who embeds a video would choose what is left of it
        raise _refusal(candidate, "--video-pruning-rate", "Serve it without, or with another implementation")
    if getattr(vllm_config.lora_config, "enable_tower_connector_lora", False):
        what = "--enable-tower-connector-lora"
        raise _refusal(candidate, what, "Serve it without, or with another implementation")


def asked(vllm_config: Any) -> dict[Capability, str]:
    """Return the features of a capability that the operator asked for, in words."""
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    quantization = model.quantization is not None
    features = {
        # vLLM gives adapters to the model that serves, and none to one that drafts for it.
        Capability.LORA: (
            vllm_config.lora_config is not None and not drafts(vllm_config),
            FLAGS[Capability.LORA],
        ),
        Capability.TENSOR_PARALLEL: (parallel.tensor_parallel_size > 1, FLAGS[Capability.TENSOR_PARALLEL]),
        Capability.PIPELINE_PARALLEL: (
            parallel.pipeline_parallel_size > 1,
            FLAGS[Capability.PIPELINE_PARALLEL],
        ),
        Capability.QUANTIZATION: (quantization, f"{model.quantization} quantization"),
    }
    return {capability: feature for capability, (on, feature) in features.items() if on}


def drafts(vllm_config: Any) -> bool:
    """Return whether the model proposes tokens to another one (speculative decoding)."""
    return bool(vllm_config.model_config.runner_type == "draft")


def role_of(vllm_config: Any) -> str:
    """Return a model's role, as :class:`mszoo.adapters.vllm.reports.Report` has it."""
    return "draft" if drafts(vllm_config) else "target"


def has_mistral_names(vllm_config: Any) -> bool:
    """Return whether weights come in Mistral's format (consolidated files, other names) and in no other."""
    load_format = vllm_config.load_config.load_format
    folder = Path(vllm_config.model_config.model)
    if load_format != "auto":
        return bool(load_format == "mistral")
    return any(folder.glob("consolidated*.safetensors")) and not any(folder.glob("model*.safetensors"))


def _refusal(candidate: Candidate, feature: str, hint: str) -> RefusalError:
    return RefusalError(candidate.qualified_name, f"doesn't support {feature}", hint)
