"""What stands for a class of vLLM's that the installed version hasn't."""

from __future__ import annotations

from typing import Any

import torch

from mszoo.registry.availability import installed_version
from mszoo.registry.errors import RefusalError


def lacking(name: str, need: str) -> Any:
    """Return a class that refuses the model which makes one; nothing is an instance of it.

    Args:
        name: of vLLM's class.
        need: who needs it, such as "models with experts".
    """

    def refuse(self: Any, *args: Any, **kwargs: Any) -> None:
        raise RefusalError(
            f"vLLM {installed_version('vllm')}",
            f"has no {name}, which {need} need",
            "Serve the model with another implementation, or install a vLLM that mszoo supports: mszoo doctor",
        )

    return type(name, (torch.nn.Module,), {"__init__": refuse, "__doc__": f"No {name} in this vLLM."})
