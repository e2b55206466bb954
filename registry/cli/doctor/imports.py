"""Tries the imports that serving needs, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence

from mszoo.registry.finding import Finding

_PLATFORM = "from vllm.platforms import current_platform; print(current_platform.device_type or 'no device')"
#: What to try: who it is about, and the statements.
IMPORTS = (
    ("vllm", _PLATFORM),
    ("mindspore", "import mindspore"),
    ("mszoo.models", "import mszoo.layers, mszoo.models"),
)
_LIMIT = 180.0  # seconds; cold files on a busy machine


def check_imports(
    imports: Sequence[tuple[str, str]] = IMPORTS, limit: float = _LIMIT, device: str | None = None
) -> Iterator[Finding]:
    """Import what serving needs, and see whether vLLM serves where it is meant to.

    Args:
        imports: who each is about, and its statements.
        limit: seconds for each.
        device: what vLLM's platform is to be; it says only at DEBUG why it took none or another. None: any.
    """
    for name, statements in imports:
        hint = f'See the whole error: python -c "{statements}"'
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
            yield Finding("problem", name, f"takes more than {limit:g} s to import", hint)
            continue
        if result.returncode:
            lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
            ended = f"signal {-result.returncode}" if result.returncode < 0 else f"status {result.returncode}"
            why = lines[-1] if lines else f"the process ended with {ended}"
            yield Finding("problem", name, f"can't be imported ({why})", hint)
        elif statements == _PLATFORM and device is not None:
            # What vLLM logs comes before it.
            found = (result.stdout.splitlines() or [""])[-1].strip()
            if found != device:
                what = f"serves on {found} here, not on {device}, and says why at DEBUG only"
                hint = f'See why: VLLM_LOGGING_LEVEL=DEBUG python -c "{statements}"'
                yield Finding("problem", name, what, hint)
