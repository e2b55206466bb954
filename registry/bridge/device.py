"""Which device vLLM serves on, and how its processes may start."""

from __future__ import annotations

import os
import sys

from vllm.platforms import current_platform

from mszoo.registry.bridge.log import log


def device_name() -> str | None:
    """Return "cpu" or "npu", or None on a platform that MindSpore models don't run on."""
    if current_platform.is_cpu():
        return "cpu"
    return "npu" if current_platform.device_type == "npu" else None


def force_spawn() -> None:
    """Make vLLM spawn its workers where a fork would hang: MindSpore doesn't survive a fork once it has run.

    A process that never imported MindSpore may fork. An operator's own "fork" is overruled, and the log says so.
    """
    variable = "VLLM_WORKER_MULTIPROC_METHOD"
    if "mindspore" not in sys.modules or os.environ.get(variable) == "spawn":
        return
    log.warning(
        "mszoo: %s=spawn (was %s): MindSpore is in use in this process, and a forked child would hang",
        variable,
        os.environ.get(variable, "unset"),
    )
    os.environ[variable] = "spawn"
