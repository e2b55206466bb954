"""Reads the table that ``npu-smi info`` prints: what each device is, and how much of its memory is free."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

_LIMIT = 20.0  # seconds; it waits for the driver
#: The last cell of a device's second row ends with "used/ total" of its memory.
_MEMORY = re.compile(r"(\d+)\s*/\s*(\d+)$")
_NUMBER_AND_NAME = re.compile(r"(\d+)\s+(\S*[A-Za-z]\S*|\d{3}\S+)$")


@dataclass(frozen=True)
class Chip:
    """One device, as ``npu-smi info`` shows it.

    Args:
        name: of its processor, such as ``910B3``, ``Ascend910`` or ``310P3``.
        used: MiB of its memory that are in use.
        total: MiB of memory that it has.
    """

    name: str
    used: int
    total: int

    @property
    def free(self) -> int:
        """MiB of its memory that nothing uses."""
        return self.total - self.used


def read_chips() -> tuple[Chip, ...]:
    """Return the devices that npu-smi shows, in its order; none where it isn't there or doesn't answer."""
    if shutil.which("npu-smi") is None:
        return ()
    try:
        done = subprocess.run(
            ["npu-smi", "info"],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse(done.stdout) if done.returncode == 0 else ()


def parse(text: str) -> tuple[Chip, ...]:
    """Return the devices of a table of npu-smi's.

    A device has two rows of three cells: its number and name, its health, its power; then its chip, its bus, and
    its memory. Other rows (headings, processes) are none of these.
    """
    chips: list[Chip] = []
    name: str | None = None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != 3:
            name = None
            continue
        memory = _MEMORY.search(cells[2])
        if name is not None and memory is not None and ":" in cells[1]:
            chips.append(Chip(name, int(memory[1]), int(memory[2])))
            name = None
            continue
        named = _NUMBER_AND_NAME.match(cells[0])
        name = named[2] if named is not None else None
    return tuple(chips)
