"""Judges whether this machine is ready to serve on Ascend NPUs; not yet tried on one."""

from __future__ import annotations

from collections.abc import Iterator

from mszoo.registry.doctor.environment import Environment
from mszoo.registry.doctor.finding import Finding, Level
from mszoo.registry.versions import MINDSPORE, VLLM_ASCEND

_CANN = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")


def check_ascend(facts: Environment) -> Iterator[Finding]:
    """Find what is missing for Ascend; one line where nothing looks like an Ascend machine."""
    cann = next((facts.environ[name] for name in _CANN if facts.environ.get(name)), None)
    packages = [name for name in ("torch-npu", "vllm-ascend") if name in facts.versions]
    if facts.device != "npu" and not (facts.npus or cann or facts.cann_script or packages):
        what = "is not an Ascend machine: no NPU, CANN, torch_npu or vllm-ascend"
        yield Finding("info", "this machine", what, "Nothing is needed to serve on CPU")
        return
    # On a machine that serves on CPU, half an Ascend installation breaks nothing.
    level: Level = "problem" if facts.device == "npu" else "warning"
    if not facts.npus:
        what = "shows no Ascend device (/dev/davinci*)"
        mend = "Install Ascend's driver, or pass the devices to the container; see them with: npu-smi info"
        yield Finding(level, "this machine", what, mend)
    if cann is None:
        script = facts.cann_script or "/usr/local/Ascend/ascend-toolkit/set_env.sh"
        what = "is not set up in this shell" if facts.cann_script else "is not installed in its usual place"
        verb = "Set it up" if facts.cann_script else "Install it, then set it up"
        yield Finding(level, "CANN", f"{what} ({' or '.join(_CANN)})", f"{verb}: source {script}")
    if "torch-npu" not in facts.versions:
        what, torch = "is not installed", facts.versions.get("torch", "").partition("+")[0]
        release = f"=={torch}" if torch else ""
        yield Finding(
            level, "torch_npu", what, f"Install the one for your torch: pip install torch-npu{release}"
        )
    if "vllm-ascend" not in facts.versions:
        mend = f"Install vLLM's platform for Ascend: pip install 'vllm-ascend{VLLM_ASCEND.accepted}'"
        yield Finding(level, "vllm-ascend", "is not installed", mend)
    elif "ascend" not in facts.platform_plugins:
        mend = "Install it again: pip install --force-reinstall --no-deps vllm-ascend"
        yield Finding(level, "vllm-ascend", "declares no platform for vLLM", mend)
    if "mindspore" in facts.versions and not facts.mindspore_ascend:
        mend = (
            f"Install one that has it: pip install --force-reinstall --no-deps mindspore=={MINDSPORE.tested}"
        )
        who = f"mindspore {facts.versions['mindspore']}"
        yield Finding(level, who, "has no Ascend backend in it", mend)
    if facts.device == "npu":
        what = "has not been tested on Ascend"
        yield Finding("info", "mszoo", what, "Compare answers with vLLM's own model: export MSZOO_DISABLE=1")
