"""Judges a machine with Ascend NPUs against the set of versions that its vllm-ascend belongs to.

Nobody has tried it on such a machine: what it expects is read from the sources of vllm-ascend, torch-npu, MindSpore
and vLLM.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from packaging.version import InvalidVersion, Version

from mszoo.registry.ascend.machine import CANN_VARIABLES, NNAL_VARIABLE, Machine
from mszoo.registry.finding import Finding, Level
from mszoo.registry.versions import ASCEND_STACKS, MINDSPORE_CANN, AscendStack, ascend_stack

#: The page that says how to set an Ascend machine up.
PAGE = "adapters/vllm/ascend.md"
#: What these faults look at, by distribution.
DISTRIBUTIONS = tuple(ASCEND_STACKS[0].pins)
VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"
#: The part of a device's memory that vLLM takes unless told otherwise; with less free it refuses to start.
MEMORY_UTILIZATION = 0.92
_TOOLKIT = "/usr/local/Ascend/ascend-toolkit/set_env.sh"
_NNAL = "/usr/local/Ascend/nnal/atb/set_env.sh"
#: Packages without which a part of vllm-ascend doesn't work, and what that is.
_COMPANIONS = {
    "torchvision": "vllm-ascend's worker imports it",
    "torchaudio": "vllm-ascend names it",
    "transformers": "vllm-ascend pins it",
    "triton-ascend": "vllm-ascend's Triton kernels need it",
}
#: Which products a processor's name in npu-smi belongs to, in vllm-ascend's words.
_PRODUCTS = ((r"^(Ascend)?910B\d", "A2"), (r"^Ascend910$|910_93", "A3"), (r"310P", "_310P"), (r"950", "A5"))


def ascend_faults(
    machine: Machine, versions: Mapping[str, str], environ: Mapping[str, str], platforms: tuple[str, ...]
) -> Iterator[Finding]:
    """Find what keeps vLLM, vllm-ascend or MindSpore from serving on the NPUs of a machine, or may.

    Args:
        machine: its facts.
        versions: the installed versions by distribution, of ``DISTRIBUTIONS`` at least.
        environ: the environment variables.
        platforms: names of vLLM's platform plugins that are installed.
    """
    stack = ascend_stack(versions.get("vllm-ascend", "")) or ASCEND_STACKS[0]
    yield from _driver(machine, stack)
    yield from _cann(machine, stack)
    yield from _nnal(machine, stack)
    yield from _packages(versions, stack)
    yield from _platform(versions, environ, platforms)
    yield from _build(machine, versions)
    yield from _mindspore(machine, versions)
    yield from _visible(machine, environ)
    yield from _memory(machine, environ)


def _driver(machine: Machine, stack: AscendStack) -> Iterator[Finding]:
    if not machine.npus:
        what = "shows no Ascend device (/dev/davinci*)"
        hint = "Install Ascend's driver, or pass the devices to the container; see them with: npu-smi info"
        yield Finding("problem", "this machine", what, hint)
    if machine.driver and stack.driver and _is_older(machine.driver, stack.driver):
        what = f"is older than the one for CANN {stack.cann} ({stack.driver})"
        hint = f"Update driver and firmware, as CANN {stack.cann}'s release notes say ({PAGE}): npu-smi info"
        yield Finding("warning", f"Ascend driver {machine.driver}", what, hint)


def _cann(machine: Machine, stack: AscendStack) -> Iterator[Finding]:
    if machine.cann_home is None:
        script = machine.cann_script or _TOOLKIT
        what = "is not set up in this shell" if machine.cann_script else "is not installed in its usual place"
        verb = "Set it up" if machine.cann_script else f"Install {stack.cann}, then set it up"
        yield Finding(
            "problem", "CANN", f"{what} ({' or '.join(CANN_VARIABLES)})", f"{verb}: source {script}"
        )
        return
    if machine.cann is None:
        what = f"has no version that can be read in {machine.cann_home}"
        hint = f"Name the folder of CANN {stack.cann}: source {machine.cann_script or _TOOLKIT}"
        yield Finding("problem", "CANN", what, hint)
        return
    level = _differs(machine.cann, stack.cann)
    if level is not None:
        what = f"is not the one that vllm-ascend {stack.vllm_ascend} is made for ({stack.cann})"
        hint = f"Install CANN {stack.cann} with its ops and NNAL ({PAGE}), then: source {_TOOLKIT}"
        yield Finding(level, f"CANN {machine.cann}", f"{what}; it is in {machine.cann_home}", hint)


def _nnal(machine: Machine, stack: AscendStack) -> Iterator[Finding]:
    if machine.nnal is None:
        what = "is not set up in this shell" if machine.nnal_script else "is not installed in its usual place"
        verb = "Set it up" if machine.nnal_script else f"Install {stack.cann}, then set it up"
        yield Finding(
            "problem",
            "NNAL",
            f"{what} ({NNAL_VARIABLE}): libatb.so can't be found",
            f"{verb}: source {_NNAL}",
        )
        return
    if machine.nnal and _differs(machine.nnal, stack.cann) is not None:
        what = f"is not of CANN {stack.cann}, as vllm-ascend {stack.vllm_ascend} needs it"
        yield Finding(
            "warning", f"NNAL {machine.nnal}", what, f"Install NNAL {stack.cann}, then: source {_NNAL}"
        )


def _packages(versions: Mapping[str, str], stack: AscendStack) -> Iterator[Finding]:
    ascend = versions.get("vllm-ascend")
    install = f"See the first lines of {stack.file}"
    if ascend is None:
        yield Finding("problem", "vllm-ascend", "is not installed", f"Install the whole set. {install}")
    elif ascend_stack(ascend) is None:
        known = ", ".join(item.vllm_ascend for item in ASCEND_STACKS)
        what = f"is none that mszoo knows the set of ({known}); compared with {stack.vllm_ascend}'s here"
        yield Finding("warning", f"vllm-ascend {ascend}", what, f"Install that set if in doubt. {install}")
    vllm = versions.get("vllm")
    if ascend is not None and vllm is not None and _public(vllm) != (pair := _paired_vllm(ascend)):
        what = f"is not the one that vllm-ascend {ascend} is written for ({pair})"
        hint = f"Install that one: pip install --no-deps vllm=={pair}"
        yield Finding("problem", f"vllm {vllm}", what, hint)
    npu = versions.get("torch-npu")
    pin = f"pip install --no-deps torch-npu=={stack.torch_npu}"
    if npu is None:
        yield Finding("problem", "torch_npu", "is not installed", f"Install the one for this set: {pin}")
    elif _public(npu) != stack.torch_npu:
        what = f"is not the one that vllm-ascend {stack.vllm_ascend} is compiled with ({stack.torch_npu})"
        level: Level = "warning" if _is_snapshot(npu) else "problem"
        yield Finding(level, f"torch_npu {npu}", what, f"Install that one, its post-release too: {pin}")
    for name, why in _COMPANIONS.items():
        version, wanted = versions.get(name), stack.pins[name]
        if version is None:
            level = "problem" if name in ("torchvision", "transformers") else "warning"
            yield Finding(level, name, f"is not installed; {why}", f"Install {name} {wanted}. {install}")
        elif _public(version) != wanted:
            what = f"is not the one that vllm-ascend {stack.vllm_ascend} pins ({wanted})"
            yield Finding("warning", f"{name} {version}", what, f"Install that one. {install}")


def _platform(
    versions: Mapping[str, str], environ: Mapping[str, str], platforms: tuple[str, ...]
) -> Iterator[Finding]:
    """Find what makes vLLM serve elsewhere, or vllm-ascend take another vLLM, without a line above DEBUG."""
    if "vllm-ascend" in versions and "ascend" not in platforms:
        hint = "Install it again: pip install --force-reinstall --no-deps vllm-ascend"
        yield Finding("problem", "vllm-ascend", "declares no platform for vLLM", hint)
    target = environ.get("VLLM_TARGET_DEVICE", "").strip()
    if target.lower() == "cpu":
        what = "makes vLLM 0.30 and newer take its own platform for CPU; it never asks vllm-ascend, and says so at "
        what += "DEBUG only"
        yield Finding(
            "problem", f"VLLM_TARGET_DEVICE={target}", what, "Let vLLM look: unset VLLM_TARGET_DEVICE"
        )
    told, vllm = environ.get("VLLM_VERSION"), versions.get("vllm")
    if told is not None and vllm is not None and told != _public(vllm):
        what = f"makes vllm-ascend take vLLM {vllm} for {told}, without a line"
        yield Finding("problem", f"VLLM_VERSION={told}", what, "Let it look: unset VLLM_VERSION")


def _build(machine: Machine, versions: Mapping[str, str]) -> Iterator[Finding]:
    """Find a vllm-ascend that was built for other products, or for another Python."""
    ascend = versions.get("vllm-ascend")
    if ascend is None:
        return
    who = f"vllm-ascend {ascend}"
    if not machine.compiled:
        what = "has no compiled ops for this Python: it goes on without its custom ops and sleep mode"
        hint = f"Install a wheel for this Python, or compile it where CANN is: {PAGE}"
        yield Finding("warning", who, what, hint)
    here = {product for chip in machine.chips if (product := _product(chip.name)) is not None}
    if machine.built_for is not None and here and machine.built_for not in here:
        names = ", ".join(sorted({chip.name for chip in machine.chips}))
        what = f"is compiled for Atlas {_said(machine.built_for)}, and this machine's {names} is of "
        what += f"{', '.join(_said(item) for item in sorted(here))}: its worker refuses to start"
        hint = f"Install one for this machine: an image of vllm-ascend's for it, or compile it here ({PAGE})"
        yield Finding("problem", who, what, hint)


def _mindspore(machine: Machine, versions: Mapping[str, str]) -> Iterator[Finding]:
    version, tested = versions.get("mindspore"), ASCEND_STACKS[0].mindspore
    if version is None:
        return
    who = f"mindspore {version}"
    if not machine.mindspore:
        hint = f"Install one that has it: pip install --force-reinstall --no-deps mindspore=={tested}"
        yield Finding("problem", who, "has no Ascend backend in it", hint)
    elif version == tested and machine.cann and ".".join(machine.cann.split(".")[:2]) not in MINDSPORE_CANN:
        what = f"names CANN {', '.join(MINDSPORE_CANN)}, and this is {machine.cann}: it warns, and goes on"
        yield Finding("warning", who, what, f"Use CANN {ASCEND_STACKS[0].cann} if in doubt: {PAGE}")


def _visible(machine: Machine, environ: Mapping[str, str]) -> Iterator[Finding]:
    value = environ.get(VISIBLE)
    who = f"{VISIBLE}={value}"
    one = f"export {VISIBLE}=0"
    if value is not None and not value.strip():
        yield Finding("problem", who, "hides every device", f"Show one: {one}. Or: unset {VISIBLE}")
        return
    if value is not None and not re.fullmatch(r"\d+(,\d+)*", value.strip()):
        what = "is no list of device numbers such as 0,1"
        yield Finding("problem", who, what, f"Show one: {one}")
        return
    count = machine.npus if value is None else value.count(",") + 1
    if count > 1:
        what = f"shows {count} devices: a server takes the first, or as many as --tensor-parallel-size says. "
        what += "mszoo on more than one has not been tried"
        who = f"{VISIBLE} (not set)" if value is None else who
        first = "0" if value is None else value.split(",")[0]
        yield Finding("warning", who, what, f"Show one: export {VISIBLE}={first}")


def _memory(machine: Machine, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Find out whether the device that a server takes first has as much free memory as vLLM asks for."""
    shown = environ.get(VISIBLE, "0").split(",")[0].strip()
    if not shown.isdigit() or int(shown) >= len(machine.chips):
        return
    chip = machine.chips[int(shown)]
    if chip.free >= MEMORY_UTILIZATION * chip.total:
        return
    what = f"has {chip.free / 1024:.1f} of {chip.total / 1024:.1f} GiB free, and vLLM asks for "
    what += f"{MEMORY_UTILIZATION:.0%} of all unless told otherwise: it refuses to start"
    part = math.floor(100 * chip.free / chip.total) / 100
    hint = "End what uses it (npu-smi info)"
    hint += f", or serve with --gpu-memory-utilization {part:g}" if part >= 0.1 else ""
    other = next(
        (n for n, item in enumerate(machine.chips) if item.free >= MEMORY_UTILIZATION * item.total), None
    )
    hint += f", or take a free device: export {VISIBLE}={other}" if other is not None else ""
    yield Finding("problem", f"device {shown} ({chip.name})", what, hint)


def _differs(version: str, wanted: str) -> Level | None:
    """Compare a version of CANN's or NNAL's: another release is a problem, another build of the same a warning."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?(.*)", version)
    if found is None or f"{found[1]}.{found[2]}" != ".".join(wanted.split(".")[:2]):
        return "problem"
    # 9.1.0 and its snapshots (9.1.0_20260930) are it; 9.1.RC1, 9.1.0-beta.1 and 9.1.1 are not.
    same = f"{found[1]}.{found[2]}.{found[3]}" == wanted and re.match(r"$|[_.]\d|\.[A-Z]\d+$", found[4])
    return None if same else "warning"


def _is_older(version: str, wanted: str) -> bool:
    try:
        return Version(version) < Version(wanted)
    except InvalidVersion:
        return False


def _is_snapshot(version: str) -> bool:
    try:
        found = Version(version)
    except InvalidVersion:
        return False
    return found.local is not None or found.is_devrelease


def _public(version: str) -> str:
    return version.partition("+")[0]


def _paired_vllm(ascend: str) -> str:
    """Return the number of the vLLM that a vllm-ascend is written for: its own, without rc and post."""
    try:
        return Version(ascend).base_version
    except InvalidVersion:
        return ascend


def _product(name: str) -> str | None:
    return next((product for pattern, product in _PRODUCTS if re.search(pattern, name)), None)


def _said(product: str) -> str:
    return {"_310P": "300I DUO", "A5": "950"}.get(product, product)
