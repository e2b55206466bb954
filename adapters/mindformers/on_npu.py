"""Which network computes a model of the suite on NPU: the suite's own, or that with mszoo's layers in its cells."""

from __future__ import annotations

import logging
from typing import Any

from mszoo.adapters.mindformers.ascend import OwnNetwork
from mszoo.adapters.mindformers.model import SuiteModel
from mszoo.layers import CausalLM, current_model_config, lora_is_enabled, tensor_parallel_size

logger = logging.getLogger("vllm.mszoo.adapters")


def network(config: Any, *, prefix: str = "", own: type[OwnNetwork] = OwnNetwork) -> CausalLM:
    """Return the model of a config: the suite's own network, unless only vLLM's layers have what is asked for.

    These have adapters, ranks of vLLM's groups, and memory that a sleeping vLLM frees: the suite's cells then give
    their places to mszoo's layers, as on a CPU.

    Args:
        config: the Hugging Face config.
        prefix: prepended to the layers' names.
        own: the class of the suite's own network.

    Raises:
        RefusalError: as the class that is built.
    """
    asked = _asked_of_layers()
    if not asked:
        return own(config, prefix=prefix)
    logger.info(
        "mszoo: %s: mszoo's layers take the places of its cells for %s",
        SuiteModel.who(config),
        " and ".join(asked),
    )
    return SuiteModel(config, prefix=prefix)


def _asked_of_layers() -> list[str]:
    """Return the flags that only weights in vLLM's layers can honour."""
    flags = {
        "--enable-lora": lora_is_enabled(),
        "--tensor-parallel-size": tensor_parallel_size() > 1,
        "--enable-sleep-mode": current_model_config().enable_sleep_mode,
    }
    return [flag for flag, on in flags.items() if on]
