"""Refuses, by name and before anything is built, what an adapter doesn't declare."""

from __future__ import annotations

from typing import Any

from mszoo.registry.catalog import Candidate
from mszoo.registry.errors import RefusalError
from mszoo.registry.records import Capability


def check(candidate: Candidate, vllm_config: Any) -> None:
    """Compare what the operator asked of vLLM with what the candidate's record declares.

    Raises:
        RefusalError: naming the first feature that isn't declared.
    """
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    adapter = candidate.adapter
    dtype = str(model.dtype).removeprefix("torch.")
    if dtype not in adapter.dtypes:
        raise _refusal(candidate, f"dtype {dtype}", f"Serve with --dtype {adapter.dtypes[0]}")
    if model.runner_type != "generate":
        raise _refusal(candidate, f"the {model.runner_type} runner", "Serve it with --runner generate")
    asked = {
        Capability.LORA: vllm_config.lora_config is not None and "--enable-lora",
        Capability.TENSOR_PARALLEL: parallel.tensor_parallel_size > 1 and "--tensor-parallel-size",
        Capability.PIPELINE_PARALLEL: parallel.pipeline_parallel_size > 1 and "--pipeline-parallel-size",
        Capability.QUANTIZATION: model.quantization is not None and f"{model.quantization} quantization",
    }
    for capability, feature in asked.items():
        if feature and capability not in adapter.capabilities:
            raise _refusal(candidate, feature, "Serve without it, or with another implementation")


def _refusal(candidate: Candidate, feature: str, mend: str) -> RefusalError:
    return RefusalError(candidate.qualified_name, f"doesn't support {feature}", mend)
