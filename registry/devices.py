"""The devices that MindSpore models are served on: the one table of them, and which of them this is."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mszoo.registry.entry_points import readable

PLATFORMS = "vllm.platform_plugins"  # vLLM's entry point group of platforms
EVERYWHERE = "mindspore"  # the kernel set that runs on every device


@dataclass(frozen=True)
class Device:
    """One device.

    Args:
        name: what vLLM's platform calls it, and so do records, lock files and ``--device``.
        backend: MindSpore's name of it.
        suites: their default order on it.
        kernels: its default kernel set: one that runs on no other device, or ``mindspore``, which runs on all.
        package: of vLLM's platform for it.
        plugin: the name of the entry point that brings this platform to vLLM; None for one of vLLM's own.
        doctor: what ``mszoo doctor`` asks about a machine for it, as ``module:function``; empty where nothing is.
    """

    name: str
    backend: str
    suites: tuple[str, ...]
    kernels: str
    package: str
    plugin: str | None = None
    doctor: str = ""


TABLE = {
    device.name: device
    for device in (
        Device("cpu", "CPU", ("native", "mindformers", "mindone"), "cpu", "vllm"),
        # The order of vLLM-MindSpore.
        Device(
            "npu",
            "Ascend",
            ("mindformers", "native", "mindone"),
            "ascend",
            "vllm_ascend",
            "ascend",
            "mszoo.registry.cli.doctor.ascend:check_ascend",
        ),
    )
}
DEVICES = tuple(TABLE)


def device_of(kernel_set: str) -> str | None:
    """Return the one device that a kernel set runs on; None for the one that runs on all."""
    if kernel_set == EVERYWHERE:
        return None
    return next((device.name for device in TABLE.values() if device.kernels == kernel_set), None)


def this_device(device_type: str | None = None) -> str | None:
    """Return the name of the device that vLLM serves on here.

    Args:
        device_type: what vLLM's current platform says, where vLLM runs. None asks, without vLLM, what it would
            choose: the platform of an installed plugin that ``VLLM_PLUGINS`` allows, else CPU.

    Returns:
        None on a device that MindSpore models don't run on, which only vLLM itself can say.
    """
    if device_type is None:
        allowed = os.environ.get("VLLM_PLUGINS")
        plugins = {item.name for item in readable(PLATFORMS)[0]}
        # vLLM doesn't strip blanks either.
        plugins &= plugins if allowed is None else set(allowed.split(","))
        return next((item.name for item in TABLE.values() if item.plugin in plugins), DEVICES[0])
    return device_type if device_type in TABLE else None
