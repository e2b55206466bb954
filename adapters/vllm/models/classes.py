"""The class that vLLM's registry gets for an architecture."""

from __future__ import annotations

from typing import Any

from mszoo.adapters.vllm.models.heads import HEADS
from mszoo.adapters.vllm.models.multimodal import MindSporeMultiModal
from mszoo.adapters.vllm.models.wrapper import InStages, MindSporeCausalLM, MindSporeEncoder, MindSporeModel
from mszoo.adapters.vllm.seam import SupportsLoRA
from mszoo.registry.catalog import Catalog
from mszoo.registry.decisions import Decision
from mszoo.registry.records import Capability


def wrapper_class(
    catalog: Catalog, decision: Decision, vllm_entry: Any, processor_entry: Any = None
) -> type[MindSporeModel]:
    """Make the class that vLLM's registry gets for one architecture, with the flags that vLLM reads off it.

    Args:
        catalog: where the decision comes from.
        decision: the candidates; at least one.
        vllm_entry: vLLM's own registry entry for this architecture, or None.
        processor_entry: that of the architecture by its plain name, whose processor a model of several modalities
            takes; None where it is the same one.
    """
    declared = {item for candidate in decision.chain for item in candidate.adapter.capabilities}
    # A candidate of another kind refuses vLLM's runner.
    first = decision.chain[0].adapter
    pooling, drafts = first.pooling, first.drafts
    bases: tuple[type, ...] = (MindSporeEncoder if pooling else MindSporeCausalLM,)
    if drafts:
        bases = (HEADS[drafts],)
    if first.modalities:
        bases = (MindSporeMultiModal,)
    flags: dict[str, Any] = {
        "__module__": MindSporeModel.__module__,
        "__doc__": f"{decision.architecture}, served by mszoo.",
        "catalog": catalog,
        "decision": decision,
        "vllm_entry": vllm_entry,
        "packed_modules_mapping": {},  # filled when it is known who serves
    }
    if first.modalities:
        flags["processor_entry"] = processor_entry or vllm_entry
    if pooling:
        flags["default_seq_pooling_type"] = pooling
        if first.task == "classify":
            flags["score_type"] = "cross-encoder"
    # vLLM asks before anything is built, and the one that serves may be a fallback. A candidate that lacks a
    # feature refuses it.
    if Capability.LORA in declared:
        bases += (SupportsLoRA,)
        flags["embedding_modules"] = {}
    if not drafts and (Capability.PIPELINE_PARALLEL in declared or not decision.pinned):
        bases += (InStages,)
    return type(decision.architecture.replace(".", "_"), bases, flags)
