"""Tries the imports that serving needs, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence

from mszoo.registry.doctor.finding import Finding

#: What to try: who it is about, and the statements.
IMPORTS = (
    ("vllm", "from vllm.platforms import current_platform; current_platform.device_type"),
    ("mindspore", "import mindspore"),
    ("mszoo.models", "import mszoo.layers, mszoo.models"),
)
_LIMIT = 180.0  # seconds; cold files on a busy machine


def check_imports(imports: Sequence[tuple[str, str]] = IMPORTS, limit: float = _LIMIT) -> Iterator[Finding]:
    """Import what serving needs; `limit` is in seconds for each."""
    for name, statements in imports:
        mend = f'See the whole error: python -c "{statements}"'
        try:
            result = subprocess.run(
                [sys.executable, "-c", statements],
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=limit,
            )
        except subprocess.TimeoutExpired:
            yield Finding("problem", name, f"takes more than {limit:g} s to import", mend)
            continue
        if result.returncode:
            lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
            ended = f"signal {-result.returncode}" if result.returncode < 0 else f"status {result.returncode}"
            why = lines[-1] if lines else f"the process ended with {ended}"
            yield Finding("problem", name, f"can't be imported ({why})", mend)
