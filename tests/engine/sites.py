"""Folders that hold installed packages of a test: put on PYTHONPATH, their entry points are found."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path


def install(
    site: Path, distribution: str, entry_points: str, files: Mapping[str, str], version: str = "1.0.0"
) -> Path:
    """Write a package and its metadata as pip would.

    Args:
        site: the folder; made if need be.
        distribution: its name.
        entry_points: the text of entry_points.txt.
        files: text by path inside the site.
        version: the distribution's.
    """
    metadata = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    (metadata / "entry_points.txt").write_text(entry_points)
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    tops = sorted({Path(name).parts[0].removesuffix(".py") for name in files})
    (metadata / "top_level.txt").write_text("\n".join(tops) + "\n")
    return site


def install_layer_example(site: Path) -> Path:
    """Install tests/layer_plugin."""
    entry_points = "[mszoo]\nlayer_example = mszoo_layer_example.adapter\n"
    return install(site, "mszoo-layer-example", entry_points, _sources("layer_plugin"))


def install_ascend_stand_in(site: Path) -> Path:
    """Install tests/ascend_stand_in, which behaves like vllm-ascend and is not vllm-ascend."""
    entry_points = "[vllm.platform_plugins]\nstand_in = ascend_stand_in:register\n"
    entry_points += "[vllm.general_plugins]\nstand_in_model = ascend_stand_in:register_model\n"
    return install(site, "ascend-stand-in", entry_points, _sources("ascend_stand_in"))


def install_stand_in_suite(site: Path) -> Path:
    """Install the same platform, and a suite of mszoo with mindformers' models as they are on NPU."""
    entry_points = "[vllm.platform_plugins]\nstand_in = ascend_stand_in:register\n"
    entry_points += "[mszoo]\nstand_in = ascend_stand_in.suite\n"
    return install(site, "ascend-stand-in", entry_points, _sources("ascend_stand_in"))


def install_entry_points_again(site: Path, distribution: str) -> Path:
    """Copy an installed distribution's entry points: put before others, its plugins are loaded before theirs."""
    installed = importlib.metadata.distribution(distribution)
    text = installed.read_text("entry_points.txt")
    assert text is not None
    return install(site, distribution, text, {}, installed.version)


def _sources(folder: str) -> dict[str, str]:
    source = Path(__file__).parents[1] / folder
    return {str(path.relative_to(source)): path.read_text() for path in source.rglob("*.py")}


def on_path(*sites: Path) -> str:
    """Return a PYTHONPATH on which these sites come first, in this order."""
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([*map(str, sites), *([inherited] if inherited else [])])
