"""Run as a module (`make fuzz MINUTES=60`): the property tests over and over, each time with other examples.

    python -m tests.tools.fuzz [--minutes 60] [--examples 500] [FILE ...]

A round runs every property test in the files, one process for each file; the next begins with a new seed, until the
time is over. Exit 1: a test failed, or a file took longer or more memory than it may. Hypothesis then prints the
example: keep it as an `@example` of the test.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Of `--hypothesis-show-statistics`, for each test and phase.
_TEST = re.compile(r"^(tests/\S+::\S+):$", re.M)
_COUNTS = re.compile(r"(\d+) passing, (\d+) failing")
_LONGEST = 900  # seconds of one file: a test that hangs is told with what it was at after 300
_TOLD = 300
#: Bytes of address space of one file's process: an example that takes all memory is told, and ends nobody else.
_MEMORY = 12 << 30


def property_tests() -> list[str]:
    """Return the files that have property tests."""
    files = sorted(ROOT.glob("tests/unit/test_*.py")) + sorted(ROOT.glob("tests/engine/test_*.py"))
    return [str(file.relative_to(ROOT)) for file in files if "\n@given(" in file.read_text(encoding="utf-8")]


def run(file: str, examples: int) -> tuple[bool, Counter[str], str]:
    """Run the property tests of a file once.

    Returns:
        Whether they passed, the examples by test, and what pytest printed.
    """
    seed = random.randrange(2**32)
    command = [sys.executable, "-m", "pytest", file, "-m", "hypothesis", "--hypothesis-profile=fuzz", "-q"]
    command += [f"--hypothesis-seed={seed}", "--hypothesis-show-statistics", "-p", "no:cacheprovider"]
    command += ["-o", f"faulthandler_timeout={_TOLD}"]
    environ = os.environ | {"FUZZ_EXAMPLES": str(examples)}
    command = ["prlimit", f"--as={_MEMORY}", *command] if shutil.which("prlimit") else command
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environ, timeout=_LONGEST, text=True, capture_output=True, check=False
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        return False, Counter(), said.decode() if isinstance(said, bytes) else said
    counts: Counter[str] = Counter()
    _, *parts = _TEST.split(done.stdout)
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        counts[name] += sum(int(passed) + int(failed) for passed, failed in _COUNTS.findall(text))
    return done.returncode == 0, counts, done.stdout + done.stderr


def main() -> int:
    """Run rounds until the time is over, and print how many examples were tried."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--examples", type=int, default=500, help="of each test in a round")
    parser.add_argument("files", nargs="*")
    arguments = parser.parse_args()
    files = arguments.files or property_tests()
    begin, rounds, total, failed = time.monotonic(), 0, Counter[str](), 0
    while time.monotonic() - begin < arguments.minutes * 60:
        for file in files:
            passed, counts, said = run(file, arguments.examples)
            total += counts
            if not passed:
                failed += 1
                print(f"{file} FAILED\n{said}", flush=True)
            if time.monotonic() - begin > arguments.minutes * 60:
                break
        rounds += 1
        minutes = (time.monotonic() - begin) / 60
        print(
            f"{minutes:.1f} minutes, {rounds} rounds, {sum(total.values())} examples, {failed} failures",
            flush=True,
        )
    for name, count in sorted(total.items()):
        print(f"{count:8} {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
