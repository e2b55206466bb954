"""Suites stay out: none is imported before one of its models is loaded, and one that is missing costs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mszoo.registry import ModelAdapter, Suite
from mszoo.registry.catalog import Catalog
from mszoo.registry.discovery import Contribution, Discovery, discover
from mszoo.registry.entry_points import Plugin
from mszoo.registry.settings import Settings

HEAVY = "{'mindformers', 'mindone', 'mindspore', 'torch', 'transformers', 'vllm'}"
COMMANDS = [
    ["list"],
    ["explain", "Qwen3ForCausalLM", "--ops", "--layers"],
    ["explain", "DIR", "--no-build", "--layers", "--json"],
    ["doctor"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_no_suite_is_imported_by_the_command(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    arguments = [str(tmp_path) if item == "DIR" else item for item in arguments]
    code = (
        "import sys\nfrom mszoo.registry.cli import build\n"
        f"try: build()({arguments})\n"
        "except SystemExit: pass\n"
        f"print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout
    assert done.stderr.splitlines()[-1] == "[]"


def test_registration_imports_no_suite_and_lists_all_architectures() -> None:
    code = (
        "import json, sys\nfrom mszoo.registry.load import load_catalog\n"
        "catalog = load_catalog()\ncatalog.digest()\n"
        "own = [item for item in catalog.discovery.contributions if item.plugin.distribution == 'mszoo']\n"
        f"print(json.dumps([sorted({HEAVY} & set(sys.modules)), {{i.suite.name: len(i.models) for i in own}}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    imported, models = json.loads(done.stdout)
    assert imported == []
    assert all(models.values())


def test_what_a_suite_needs_is_looked_up_once_for_all_its_adapters() -> None:
    suite = Suite("big", requires=["big==1.0", "helper"], install="pip install big")
    models = tuple(ModelAdapter(f"A{index}", "big.a:A", requires=["big>=0.9"]) for index in range(300))
    plugin = Plugin("big", "big-dist", "1.0", "somewhere")
    contribution = Contribution(plugin, suite, models)
    discovery = Discovery((contribution,), (), (plugin,), discover(Settings(), []).manager)
    asked: list[str] = []
    catalog = Catalog(discovery, Settings(), installed=asked.append)
    catalog.digest()
    assert catalog.suite_obstacle(suite) == (
        "needs big==1.0, which is not installed and helper, which is not installed: pip install big"
    )
    assert all(not decision.chain for decision in catalog.decisions().values())
    assert sorted(asked) == ["big", "big", "helper"]  # once for each requirement
