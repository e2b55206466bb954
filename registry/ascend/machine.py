"""The facts of a machine with Ascend NPUs, read from variables, files and npu-smi; nothing is imported.

What each file says, and where it lies, is that of CANN's and NNAL's installers, of 8.0 to 9.1.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mszoo.registry.ascend.npu_smi import Chip, read_chips

#: The variables that CANN's set_env.sh sets, the first that is set counts.
CANN_VARIABLES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
#: The variable that NNAL's set_env.sh sets.
NNAL_VARIABLE = "ATB_HOME_PATH"
_SCRIPTS = ("usr/local/Ascend/ascend-toolkit/set_env.sh", "usr/local/Ascend/cann/set_env.sh")
_NNAL_SCRIPT = "usr/local/Ascend/nnal/atb/set_env.sh"
_DRIVER = "usr/local/Ascend/driver/version.info"
#: Where CANN's version stands, below its folder, and how. The first two name the release; a part's own number is
#: the release's since 8.2.
_CANN_FILES = (
    ("version.cfg", r"^toolkit_running_version=\[[^:\]]*:([^\]]+)\]"),
    ("*-linux/ascend_toolkit_install.info", r"^version=(\S+)"),
    ("share/info/runtime/version.info", r"^Version=(\S+)"),
    ("compiler/version.info", r"^Version=(\S+)"),
    ("version.info", r"^Version=(\S+)"),
)


@dataclass(frozen=True)
class Machine:
    """One machine.

    Args:
        npus: number of Ascend devices in /dev.
        cann_home: CANN's folder, as this shell names it; None where it names none.
        cann: CANN's version there; None where there is none, or it can't be read.
        cann_script: CANN's set_env.sh where it is installed in a usual place.
        nnal: NNAL's version where this shell names it, empty where it can't be read; None where it names none.
        nnal_script: NNAL's set_env.sh where it is installed in the usual place.
        driver: the driver's version; None where it can't be read.
        chips: what npu-smi shows; empty where it wasn't asked or isn't there.
        built_for: what the installed vllm-ascend is compiled for: A2, A3, _310P or A5; None if unknown.
        compiled: whether the installed vllm-ascend has its compiled ops for this Python.
        mindspore: whether the installed MindSpore has its Ascend backend.
    """

    npus: int = 0
    cann_home: str | None = None
    cann: str | None = None
    cann_script: str | None = None
    nnal: str | None = None
    nnal_script: str | None = None
    driver: str | None = None
    chips: tuple[Chip, ...] = ()
    built_for: str | None = None
    compiled: bool = True
    mindspore: bool = False


def read_machine(
    environ: Mapping[str, str] = os.environ, root: Path = Path("/"), npu_smi: bool = True
) -> Machine:
    """Return the facts of this machine.

    Args:
        environ: the environment variables.
        root: what its files lie below.
        npu_smi: ask npu-smi too, which takes up to seconds.
    """
    home = next((environ[name] for name in CANN_VARIABLES if environ.get(name)), None)
    atb = environ.get(NNAL_VARIABLE) or None
    package = folder("vllm_ascend")
    mindspore = folder("mindspore")
    return Machine(
        npus=len(list((root / "dev").glob("davinci[0-9]*"))),
        cann_home=home,
        cann=_cann(Path(home)) if home else None,
        cann_script=next((f"/{path}" for path in _SCRIPTS if (root / path).is_file()), None),
        nnal=_nnal(Path(atb)) if atb else None,
        nnal_script=f"/{_NNAL_SCRIPT}" if (root / _NNAL_SCRIPT).is_file() else None,
        driver=_find(root / _DRIVER, r"^Version=(\S+)"),
        chips=read_chips() if npu_smi else (),
        built_for=_find(package / "_build_info.py", r"^__device_type__ = '(\w+)'") if package else None,
        compiled=package is None or _has_compiled(package),
        mindspore=mindspore is not None and any(mindspore.glob("lib/plugin/libmindspore_ascend.so*")),
    )


def folder(package: str) -> Path | None:
    """Return the folder of a package without running it; None where it isn't installed."""
    spec = importlib.util.find_spec(package)
    locations = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(locations))) if locations else None


def _find(path: Path, pattern: str) -> str | None:
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else None


def _cann(home: Path) -> str | None:
    for name, pattern in _CANN_FILES:
        for path in sorted(home.glob(name)):
            version = _find(path, pattern)
            if version is not None:
                return version
    return None


def _nnal(atb: Path) -> str:
    # ATB_HOME_PATH is <version>/atb/cxx_abi_<n>, and the file lies beside that atb.
    for place in (atb, *atb.parents[:2]):
        version = _find(place / "version.info", r"^\s*Ascend-cann-atb\s*:\s*(\S+)")
        if version is not None:
            return version
    return ""


def _has_compiled(package: Path) -> bool:
    name = f"vllm_ascend_C.{sys.implementation.cache_tag}"
    return any(
        path.name.startswith((name, "vllm_ascend_C.abi3")) for path in package.glob("vllm_ascend_C.*so")
    )
