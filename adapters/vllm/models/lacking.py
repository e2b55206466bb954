"""What vLLM's backends have no kernels for, whoever's model it is: found before weights are read.

vLLM itself finds out when the weights are there, in the first step, in which its engine dies, or never.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from mszoo.registry.errors import RefusalError

#: What is known to be served on a CPU with AVX-512: tests/engine/test_quantization.py holds it true.
TAKEN = (
    "On a CPU with AVX-512 dense models take compressed-tensors W8A8, W4A16 and fp8 with a scale for each row, AWQ "
    "and 4-bit GPTQ; models with experts take these where the experts' own weights are plain"
)
#: What such a list is tried with.
_AN_EXPERT = "model.layers.99.mlp.experts.0.gate_proj"
_WITHOUT = "Merge the adapter into the weights, and serve these without --enable-lora"


def check(who: str, vllm_config: Any, device: str) -> None:
    """Refuse what vLLM's kernels for a device can't compute.

    Args:
        who: would serve.
        vllm_config: vLLM's.
        device: mszoo's name of it.

    Raises:
        RefusalError: the weights are fp8, and these are experts, or have one scale for a tensor; or it is float32
            on a processor with AMX, and the weights are W8A8 or the cache is latent. On an NPU: LoRA is to run on
            several ranks that don't share out its own rank.
    """
    if device == "npu":
        _check_lora_on_ranks(who, vllm_config)
    if device != "cpu":
        return
    has_experts = _experts(vllm_config.model_config)
    if has_experts and _is_fp8_of_experts(vllm_config.quant_config) and not _has_amx():
        what = (
            "experts' weights are fp8, for which vLLM's CPU backend has kernels on processors with AMX alone"
        )
        raise RefusalError(who, what, TAKEN)
    if _one_scale_each(vllm_config.quant_config) and not _rounds_to_fp8():
        what = "the weights are fp8 with one scale for a tensor, and vLLM's CPU backend has no op that rounds to it"
        raise RefusalError(who, what, TAKEN)
    if vllm_config.model_config.dtype == torch.float32 and _has_amx():
        _check_float32_on_amx(who, vllm_config)


def check_lora_on_experts(who: str, vllm_config: Any, device: str) -> None:
    """Refuse adapters for a model with vLLM's layer of experts, which takes them, in its tree.

    Args:
        who, vllm_config, device: as of :func:`check`.

    Raises:
        RefusalError: LoRA was asked for, and the model has experts.
    """
    from mszoo.adapters.vllm.seam import HAS_TRITON

    if device != "cpu" or HAS_TRITON:
        return
    if vllm_config.lora_config is not None and _experts(vllm_config.model_config):
        what = "it has experts, and vLLM computes LoRA on these by Triton's kernels alone, which a CPU lacks"
        raise RefusalError(who, what, _WITHOUT)


def _check_lora_on_ranks(who: str, vllm_config: Any) -> None:
    from mszoo.adapters.vllm.seam import MergedColumnParallelLinearWithLoRA

    lora, ranks = vllm_config.lora_config, vllm_config.parallel_config.tensor_parallel_size
    # vLLM 0.23 gathers the products of merged projections from all ranks with or without the flag. Without it
    # that is more than the rank of an adapter, which kernels for CUDA look up in the weights, and Ascend's don't.
    gathers = "apply" in vars(MergedColumnParallelLinearWithLoRA)
    if lora is not None and ranks > 1 and not lora.fully_sharded_loras and gathers:
        what = (
            "LoRA on several ranks: this vLLM and vllm-ascend's kernels differ in the rank of what they exchange, "
            "and answers would be wrong"
        )
        raise RefusalError(who, what, "Serve it with --fully-sharded-loras")


def _check_float32_on_amx(who: str, vllm_config: Any) -> None:
    from mszoo.adapters.vllm.seam import AttentionBackendEnum

    # Versions of vLLM differ in which of these kernels they have.
    amx, any_dtype = (getattr(AttentionBackendEnum, name, None) for name in ("AMX_MLA", "CPU_MLA"))
    if vllm_config.model_config.use_mla and amx and vllm_config.attention_config.backend != any_dtype:
        what = "it is served in float32, and vLLM attends to latent caches on processors with AMX in bfloat16 alone"
        hint = (
            "Serve it with --dtype bfloat16, or with --attention-backend CPU_MLA "
            "(of a head: attention_backend in --speculative-config)"
        )
        raise RefusalError(who, what, hint)
    if amx and _is_w8a8(vllm_config.quant_config):
        what = (
            "it is served in float32, and vLLM multiplies int8 weights on processors with AMX in bfloat16 and "
            "float16 alone"
        )
        raise RefusalError(who, what, "Serve it with --dtype bfloat16")


def refusal_of(who: str, error: Exception, reasons: str) -> RefusalError:
    """Return what a quantized checkpoint is refused with that no model takes, vLLM's own included.

    Args:
        who: the architecture.
        error: what vLLM's own model raised.
        reasons: why mszoo's candidates refused.
    """
    said = " ".join(str(error).split())
    return RefusalError(
        who, f"no implementation takes these weights: {reasons}; vLLM's own model: {said}", TAKEN
    )


def _experts(model_config: Any) -> bool:
    return bool(model_config.get_num_experts())


def _is_fp8(quantization: Any) -> bool:
    """Say whether a checkpoint's weights are fp8, in its own format or in compressed-tensors'."""
    if quantization is None:
        return False
    return quantization.get_name() == "fp8" or any(item.type == "float" for item in _schemes(quantization))


def _is_fp8_of_experts(quantization: Any) -> bool:
    """Say whether a checkpoint's weights are fp8, and its list of modules that aren't leaves the experts in."""
    if not _is_fp8(quantization):
        return False
    plain = [*getattr(quantization, "ignore", ()), *getattr(quantization, "ignored_layers", ())]
    return not any(
        re.match(item[3:], _AN_EXPERT) if item.startswith("re:") else ".experts" in item for item in plain
    )


def _one_scale_each(quantization: Any) -> bool:
    """Say whether weights are fp8, with one scale for all of a tensor."""
    if not _is_fp8(quantization):
        return False
    if quantization.get_name() == "fp8":
        return quantization.weight_block_size is None
    return any((item.type, item.strategy) == ("float", "tensor") for item in _schemes(quantization))


def _schemes(quantization: Any) -> list[Any]:
    """Return how a compressed-tensors checkpoint stores the weights of each of its groups."""
    groups = getattr(quantization, "target_scheme_map", {}).values()
    return [group["weights"] for group in groups if group and group.get("weights") is not None]


def _is_w8a8(quantization: Any) -> bool:
    """Say whether a compressed-tensors checkpoint has int8 weights, and what they multiply is made int8.

    Where that has a zero point vLLM multiplies by oneDNN, in float32 too.
    """
    for group in getattr(quantization, "target_scheme_map", {}).values():
        given = group.get("input_activations") if group else None
        if given is not None and given.symmetric and group["weights"].type == "int":
            return True
    return False


def _has_amx() -> bool:
    return bool(torch.cpu._is_amx_tile_supported())


def _rounds_to_fp8() -> bool:
    """Say whether vLLM's library has the op: on a CPU it has the name, and nothing behind it."""
    op = getattr(torch.ops._C, "static_scaled_fp8_quant", None)
    return op is not None and bool(op.default._schema.arguments)
