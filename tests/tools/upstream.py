"""Run as a module (`make upstream`): vLLM's own tests with mszoo and without, and what passes only without.

The tests come from the source distribution of the vLLM that is installed, fetched once into .cache/upstream with
the digest that the package index gives. The models that they name are tiny random checkpoints in a hub cache of its
own, and nothing is asked of the hub. upstream.toml says which tests and which models.

    python -m tests.tools.upstream [--sdist FILE] [TEST ...]

TEST is a line of upstream.toml, all of them by default. Exit 1: a test passes with MSZOO_DISABLE=1, and with mszoo
it doesn't.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import tomllib

from tests.engine.conftest import make_checkpoint
from tests.engine.odd_checkpoints import make_whole_lora
from tests.engine.server import byte_tokenizer

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "upstream"
SETTINGS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
INDEX = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
#: Sizes of every checkpoint: as the project's engine tests have them, and room for the tests' prompts.
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
#: What some families call them.
OTHER_SIZES = {
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 128},
    "gpt2": {"n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 4096},
}
_TIMEOUT = 1800  # seconds for one line


def main() -> int:
    """Run both sides, and print and judge what they show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sdist", type=Path, help="vLLM's source distribution, instead of fetching it")
    parser.add_argument("tests", nargs="*", metavar="TEST", help="lines of upstream.toml")
    arguments = parser.parse_args()
    release = version("vllm").partition("+")[0]
    CACHE.mkdir(parents=True, exist_ok=True)
    tests = unpacked(arguments.sdist or fetched(release), release)
    hub = CACHE / "hub"
    make_hub(hub)
    lines = arguments.tests or [*SETTINGS["tests"], *of_architectures()]
    alone = outcomes(run(tests, hub, lines, "alone", MSZOO_DISABLE="1"))
    with_mszoo = outcomes(run(tests, hub, lines, "mszoo"))
    worse = sorted(name for name, outcome in alone.items() if outcome == "passed" != with_mszoo.get(name))
    for title, found in (("alone", alone), ("mszoo", with_mszoo)):
        counts = {kind: list(found.values()).count(kind) for kind in sorted(set(found.values()))}
        print(f"{title}: {', '.join(f'{count} {kind}' for kind, count in counts.items()) or 'nothing ran'}")
    for name in worse:
        print(f"passes alone, with mszoo {with_mszoo.get(name, 'did not run')}: {name}")
    if not any(outcome == "passed" for outcome in alone.values()):
        print("No test passes alone: nothing was compared", file=sys.stderr)
        return 1
    return 1 if worse else 0


def fetched(release: str) -> Path:
    """Return vLLM's source distribution, fetched where it isn't there, with the digest that the index says.

    pip can't: it builds a source distribution's metadata, and for vLLM's that takes a compiler for Rust.
    """
    name = f"vllm-{release}.tar.gz"
    path = CACHE / name
    if path.is_file():
        return path
    request = urllib.request.Request(
        f"{INDEX}/vllm/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        files = {file["filename"]: file for file in json.load(answer)["files"]}
    if name not in files:
        raise SystemExit(f"{INDEX} has no {name}; give it with --sdist")
    with urllib.request.urlopen(files[name]["url"], timeout=600) as answer:
        content = answer.read()
    if hashlib.sha256(content).hexdigest() != files[name]["hashes"]["sha256"]:
        raise SystemExit(f"{name} isn't what {INDEX} says that it is; run again")
    path.write_bytes(content)
    return path


def unpacked(sdist: Path, release: str) -> Path:
    """Return the folder that holds vLLM's folder tests/, unpacked where it isn't there."""
    folder = CACHE / f"vllm-{release}"
    if not (folder / "tests").is_dir():
        print(f"unpacking {sdist.name}", flush=True)
        inside = f"vllm-{release}/tests/"
        with tarfile.open(sdist) as archive:
            members = [member for member in archive if member.name.startswith(inside)]
            archive.extractall(CACHE, members, filter="data")
        (folder / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    return folder


def make_hub(hub: Path) -> None:
    """Write every model and adapter of upstream.toml as the hub's cache holds it, where it isn't there."""
    for name, family in SETTINGS["models"].items():
        if (folder := _new(hub, name)) is not None:
            tokenizer = byte_tokenizer()
            make_checkpoint(folder, family, vocab_size=len(tokenizer), **SIZES, **OTHER_SIZES.get(family, {}))
            tokenizer.save_pretrained(folder)
            _finish(hub, name)
    for name, base in SETTINGS["adapters"].items():
        if (folder := _new(hub, name)) is not None:
            make_whole_lora(_snapshot(hub, base), folder, modules=("q_proj", "v_proj", "down_proj"))
            _finish(hub, name)


def _repository(hub: Path, name: str) -> Path:
    return hub / f"models--{name.replace('/', '--')}"


def _snapshot(hub: Path, name: str) -> Path:
    return _repository(hub, name) / "snapshots" / hashlib.sha1(name.encode()).hexdigest()


def _new(hub: Path, name: str) -> Path | None:
    """Return a folder to write, or None if the repository is complete: it gets its reference last."""
    if (_repository(hub, name) / "refs" / "main").is_file():
        return None
    folder = _snapshot(hub, name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _finish(hub: Path, name: str) -> None:
    reference = _repository(hub, name) / "refs" / "main"
    reference.parent.mkdir(exist_ok=True)
    reference.write_text(_snapshot(hub, name).name)


def of_architectures() -> list[str]:
    """Return the tests of each architecture that an adapter and vLLM have."""
    listed = subprocess.run(
        [str(Path(sys.executable).with_name("mszoo")), "list", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    served = {row["architecture"] for row in json.loads(listed.stdout)["architectures"]}
    own = subprocess.run(
        [sys.executable, "-c", _OWN_ARCHITECTURES],
        env=os.environ | {"MSZOO_DISABLE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    both = sorted(served & set(json.loads(own.stdout.splitlines()[-1])))
    patterns = SETTINGS["for_architectures"]
    return [" ".join(pattern.format(architecture=name) for name in both) for pattern in patterns]


_OWN_ARCHITECTURES = """
import json
from vllm.model_executor.models.registry import ModelRegistry
print(json.dumps(list(ModelRegistry.get_supported_archs())))
"""


def run(tests: Path, hub: Path, lines: Iterable[str], side: str, **environment: str) -> list[Path]:
    """Run each line in a process of its own, since its engines may stay in it, and return pytest's reports."""
    reports = CACHE / "reports" / side
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MSZOO_")}
    offline = {
        "HF_HUB_CACHE": str(hub),
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONPATH": os.pathsep.join([str(tests), str(CACHE / "site")]),
    }
    for index, line in enumerate(lines):
        nodes, _, expression = line.partition(" -k ")
        report = reports / f"{index}.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        command += [f"tests/{node}" for node in nodes.split()] + (["-k", expression] if expression else [])
        print(f"{side}: {line if len(line) < 100 else line[:100] + ' ...'}", flush=True)
        with report.with_suffix(".log").open("w") as log:
            try:
                subprocess.run(
                    command,
                    cwd=tests,
                    env=ours | offline | environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    check=False,
                    timeout=_TIMEOUT,
                )
            except subprocess.TimeoutExpired:
                print(f"{side}: not done after {_TIMEOUT} s: {line}", file=sys.stderr)
    return sorted(reports.glob("*.xml"))


def outcomes(reports: Iterable[Path]) -> dict[str, str]:
    """Return what became of each test: passed, failed or skipped."""
    found = {}
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):
            kinds = {child.tag for child in case}
            outcome = (
                "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
            )
            found[f"{case.get('classname')}::{case.get('name')}"] = outcome
    return found


if __name__ == "__main__":
    raise SystemExit(main())
