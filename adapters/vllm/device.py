"""Which device vLLM serves on, and how its processes may start."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from mszoo.adapters.vllm.log import log
from mszoo.adapters.vllm.seam import current_platform
from mszoo.registry.devices import this_device


def device_name() -> str | None:
    """Return "cpu" or "npu", or None on a platform that MindSpore models don't run on."""
    # By device type: a platform from another package is none of vLLM's own.
    return this_device(current_platform.device_type)


def start_mindspore(device: str) -> None:
    """Make MindSpore ready to compute in this process, and keep later workers from being forked off it."""
    from mszoo.kernels import runtime

    runtime.prepare(device)
    force_spawn(log.info)


def carry_settings() -> None:
    """Make vLLM hand MSZOO_* to its Ray workers: on another machine they would decide by other settings."""
    variable = "VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY"
    prefixes = [item for item in os.environ.get(variable, "").split(",") if item.strip()]
    if "MSZOO_" not in prefixes:
        os.environ[variable] = ",".join([*prefixes, "MSZOO_"])


def force_spawn(say: Callable[..., None] = log.warning) -> None:
    """Make vLLM spawn its workers where a fork would hang: MindSpore doesn't survive a fork once it has run.

    A process that never imported MindSpore may fork. An operator's own "fork" is overruled, and the log says so.

    Args:
        say: logs it.
    """
    variable = "VLLM_WORKER_MULTIPROC_METHOD"
    if "mindspore" not in sys.modules or os.environ.get(variable) == "spawn":
        return
    say(
        "mszoo: %s=spawn (was %s): MindSpore is in use in this process, and a forked child would hang",
        variable,
        os.environ.get(variable, "unset"),
    )
    os.environ[variable] = "spawn"
