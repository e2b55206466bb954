"""What ranks agree on while a model is built: those of tensor parallelism, and the stages of a pipeline."""

from __future__ import annotations

from typing import Any

import torch

from mszoo.registry.decisions import Candidate
from mszoo.registry.errors import RefusalError


def other_refusal(candidate: Candidate, vllm_config: Any, *, refused: bool) -> RefusalError | None:
    """Exchange with the other ranks whether a candidate is refused; every rank has to come here.

    Args:
        candidate: whose model was built.
        vllm_config: has the number of ranks.
        refused: whether this rank refuses.

    Returns:
        The refusal of a rank that had none of its own, where another one refuses; else None.
    """
    # Imported here: half of vLLM comes with it, and registration runs in every process.
    from mszoo.adapters.vllm.seam import get_pp_group, get_tp_group

    parallel = vllm_config.parallel_config
    sizes = {get_tp_group: parallel.tensor_parallel_size, get_pp_group: parallel.pipeline_parallel_size}
    count = torch.tensor(int(refused), device="cpu")
    for group in [group for group, size in sizes.items() if size > 1]:  # a sum of sums: that of all
        torch.distributed.all_reduce(count, group=group().cpu_group)
    if refused or not count.item():
        return None
    return RefusalError(
        candidate.qualified_name,
        f"{count.item()} other ranks refused it",
        "Their logs say why; ranks have to serve the same model",
    )
